"""A GGUF file, written here by the `gguf` package, becomes the policy it was made from."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.files import gguf as conversion
from lightning_modules.models.scalars.reward_model import LastTokenReward, RewardModelSpec
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from tests.lightning_modules.models.architectures import config, make_batch

HEADS, KEY_HEADS = 4, 2
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
"""Hugging Face name of a Llama weight (within its layer) -> name in a GGUF file."""


@pytest.fixture
def original() -> CausalLMPolicy:
    return RandomPolicy(config("llama"), seed=1).build()


@pytest.fixture
def file(tmp_path: Path, original: CausalLMPolicy) -> Path:
    path = tmp_path / "models" / "tiny.gguf"
    path.parent.mkdir()
    write_gguf(path, original)
    return path


def write_gguf(path: Path, policy: CausalLMPolicy) -> None:
    cfg = policy.model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(cfg.max_position_embeddings)
    writer.add_embedding_length(cfg.hidden_size)
    writer.add_block_count(cfg.num_hidden_layers)
    writer.add_feed_forward_length(cfg.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(cfg.vocab_size)
    write_tokenizer(writer, cfg.vocab_size)
    for name, weight in policy.model.state_dict().items():
        writer.add_tensor(gguf_name(name), as_llama_cpp(name, weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """A byte-pair vocabulary whose padding token is its end of sequence, as in SmolLM2's file."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>", "AB", *(chr(ord("A") + i) for i in range(vocab_size - 4))])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (vocab_size - 3))
    writer.add_token_merges(["A B"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)


def gguf_name(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}"
    return NAMES[name]


def as_llama_cpp(name: str, weight: Tensor) -> np.ndarray:
    """llama.cpp interleaves the two halves that rotary embeddings turn against one another."""
    heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(name.split(".")[-2], 0)
    if heads:
        weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
    return weight.numpy()


def test_round_trip(file: Path, original: CausalLMPolicy, tmp_path: Path) -> None:
    spec = PretrainedPolicy(str(file), cache_dir=str(tmp_path / "cache"))
    policy = spec.build()
    batch = make_batch()
    torch.testing.assert_close(policy(batch).logps, original(batch).logps, rtol=1e-5, atol=1e-5)
    policy(batch).logps.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())
    policy.save(tmp_path / "saved")
    assert PretrainedPolicy(str(tmp_path / "saved")).build().fingerprint() == policy.fingerprint()


def test_converted_once_for_a_content_with_its_tokenizer(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(tmp_path / "cache")
    folder = conversion.converted_folder(str(file), cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (2, 2)
    assert not list(Path(folder).glob("*.bin"))
    copy = tmp_path / "renamed.gguf"
    copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(conversion, "_convert", None)
    assert conversion.converted_folder(str(copy), cache) == folder


def test_converting_twice_at_once_leaves_one_whole_folder(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = tmp_path / "one", tmp_path / "two"
    # Not in threads: transformers exchanges a method of all models while it loads one, and two at once leave the wrong one there.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        folders = set(pool.map(partial(conversion.converted_folder, str(file)), [str(cache)] * 2))
    assert len(folders) == 1
    assert [path.name for path in (cache / "gguf").iterdir()] == [Path(folders.pop()).name]
    # The loser of the race finds a folder with content in its way, and leaves it alone.
    for folder in (first, second):
        folder.mkdir()
        (folder / "content").write_text(folder.name)
    conversion._publish(first, second)
    assert (second / "content").read_text() == "two"


def test_a_failed_conversion_leaves_nothing(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"broken\.gguf"):
        conversion.converted_folder(str(broken), str(tmp_path / "cache"))
    assert not list((tmp_path / "cache" / "gguf").iterdir())
    with pytest.raises(FileNotFoundError, match="Check `path`"):
        conversion.converted_folder(str(tmp_path / "nowhere.gguf"), str(tmp_path))


@torch.no_grad()
def test_a_reward_model_starts_from_the_same_body(
    file: Path, original: CausalLMPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reward = RewardModelSpec(str(file)).build()
    assert isinstance(reward, LastTokenReward)
    reward.head.weight.fill_(1.0)
    original.model.save_pretrained(tmp_path / "folder")
    same = RewardModelSpec(str(tmp_path / "folder")).build()
    assert isinstance(same, LastTokenReward)
    same.head.weight.fill_(1.0)
    torch.testing.assert_close(reward(make_batch()), same(make_batch()))
