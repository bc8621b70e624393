"""One function makes the ids of a conversation: training, the judge and plain transformers give the same reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from datamodules.contracts.packing import pack
from datamodules.formats.columns import PairColumns
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.tokens.encoding import PromptEncoder
from datamodules.tokens.layout import share_laid_out
from judges.base import JudgeError
from judges.reward_model import RewardModelJudge
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import RandomPolicy
from tests import tiny
from tests.datamodules.chat import CHATML, LLAMA2, build, real_template
from train import main

TRAINED: dict[str, tuple[tuple[str, dict[str, Any]], bool]] = {
    "a line break behind the turn, padding that ends": ((CHATML, {}), True),
    "a beginning from the template and the tokenizer": ((LLAMA2, {"adds_bos": True, "eos": "</s>"}), True),
    "another end than the turn's": ((real_template("gemma3"), {"eos": "</s>"}), True),
    "text under a tokenizer with a template": ((CHATML, {"adds_bos": True, "pad": "<unk>"}), False),
}


def write_rows(path: Path, asked: str = "Say <s>", more: str = "and </s> more") -> list[dict[str, str]]:
    rows = [
        {"prompt": f"{asked} {word}", "chosen": f"{word}, {more} {word}", "rejected": word[::-1]}
        for word in ("noon", "tea", "cat", "a rather long word", "x")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def write_policy(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    sizes = tiny.POLICY["init_args"]["config"] | {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    RandomPolicy(sizes, seed=3).build().save(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(folder: Path, tokenizer: PreTrainedTokenizerFast, *, as_chat: bool, **policy: Any) -> Path:
    """Two steps of the real command; the exported folder."""
    data = {
        "tokenizer": None,
        "train": {"path": str(folder / "rows.jsonl")},
        "format": {"class_path": "datamodules.formats.columns.PairColumns", "init_args": {"as_chat": as_chat}},
        "val_fraction": 0.0,
        "batch_size": 4,
        "num_probe_prompts": 0,
        "cache_dir": str(folder / "cache"),
    }
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}}
    module = {"reward_model": {"path": str(write_policy(folder / "policy", tokenizer))} | policy, "optimizer": optimizer}
    config = {
        "seed_everything": 0,
        "trainer": tiny.trainer(
            folder, [{"class_path": "callbacks.saving.reward_export.RewardExport"}], max_steps=4, max_epochs=-1
        ),
        "model": {"class_path": "lightning_modules.reward.RewardModule", "init_args": module},
        "data": {"class_path": "datamodules.preference.PreferenceDataModule", "init_args": data},
    }
    (folder / "rm.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(folder / "rm.yaml")])
    return folder / "runs" / "rm" / "version_0" / "reward_model"


def trained_rewards(folder: Path, tokenizer: PreTrainedTokenizerFast, rows: Path, *, as_chat: bool) -> Tensor:
    """`[pairs, 2]` of the ids that the data module made."""
    source = DataSource(str(rows))
    store, _ = Preparation(source, PairColumns(as_chat=as_chat), PromptEncoder(tokenizer), LengthLimits(256)).run()
    with torch.no_grad():
        rewards: Tensor = RewardModelSpec(str(folder)).build().eval()(pack(list(store)))
    return rewards.view(-1, 2)


@pytest.mark.parametrize("case", TRAINED)
def test_training_the_judge_and_transformers_give_one_reward(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    (template, options), as_chat = TRAINED[case]
    tokenizer, rows = build(template, **options), write_rows(tmp_path / "rows.jsonl")
    folder = train(tmp_path, tokenizer, as_chat=as_chat)
    trained = trained_rewards(folder, tokenizer, tmp_path / "rows.jsonl", as_chat=as_chat)
    assert trained.std() > 0.003
    judge, sides = RewardModelJudge(str(folder), batch_size=3), ("chosen", "rejected")
    judged = [judge.judge_many([row["prompt"] for row in rows], [row[side] for row in rows]) for side in sides]
    torch.testing.assert_close(tensor([[v.score for v in verdicts] for verdicts in judged]).T, trained, atol=1e-5, rtol=1e-5)
    # Transformers alone takes the special tokens that a text spells for special: compare what spells none.
    rejected = [[{"role": "user", "content": "Say it"}, {"role": "assistant", "content": row["rejected"]}] for row in rows]
    known, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    inputs = known.apply_chat_template(rejected, return_dict=True, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits[:, 0].tolist()
    assert logits == pytest.approx([v.score for v in judge.judge_many(["Say it"] * 5, [row["rejected"] for row in rows])], abs=1e-5)


@pytest.mark.parametrize("read", [{"pooling": "sum"}, {"likelihood_scale": 0.25}], ids=["sum", "likelihood"])
def test_what_is_not_read_at_the_last_token_in_plain_transformers(
    read: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls that docs/rlhf.md gives."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    tokenizer, rows = build(CHATML), write_rows(tmp_path / "rows.jsonl", "Say")
    folder = train(tmp_path, tokenizer, as_chat=True, **read)
    expected = trained_rewards(folder, tokenizer, tmp_path / "rows.jsonl", as_chat=True)[:, 1]
    known = AutoTokenizer.from_pretrained(folder)
    kind = AutoModelForCausalLM if "likelihood_scale" in read else AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, dtype=torch.float32)
    for row, reward in zip(rows, expected.tolist(), strict=True):
        asked = [{"role": "user", "content": row["prompt"]}]
        start = len(known.apply_chat_template(asked, add_generation_prompt=True)["input_ids"])
        ids = known.apply_chat_template([*asked, {"role": "assistant", "content": row["rejected"]}], return_tensors="pt")[
            "input_ids"
        ]
        with torch.no_grad():
            if "likelihood_scale" in read:
                logps = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
                plain = 0.25 * logps.gather(1, ids[0, start:, None]).sum().item()
            else:
                plain = model.score(model.base_model(ids).last_hidden_state)[0, start:].sum().item()
        assert plain == pytest.approx(reward, rel=1e-5)


def with_weights(folder: Path, **further: Tensor) -> Path:
    """A tiny causal LM whose file holds further weights."""
    tiny.write_model(folder)
    weights = load_file(folder / "model.safetensors") | further
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "shape", "complaint"),
    [
        ("v_head.weight", (1, 16), "v_head.weight"),
        ("v_head.summary.weight", (1, 16), "v_head.summary.weight"),
        ("value_head.weight", (1, 16), "value_head.weight"),
        ("score.weight", (2, 16), "one output, got 2"),
        ("score.bias", (1,), "score.bias"),
    ],
)
def test_a_head_that_would_not_be_read_is_refused(name: str, shape: tuple[int, ...], complaint: str, tmp_path: Path) -> None:
    further = {name: torch.ones(shape)} | ({"score.weight": torch.ones(1, 16)} if name == "score.bias" else {})
    folder = with_weights(tmp_path / "model", **further)
    with pytest.raises(ValueError, match=complaint):
        RewardModelSpec(str(folder)).build()
    with pytest.raises(ValueError, match="expected a reward model"):
        RewardModelJudge(str(folder)).judge("w1", "w2")


def test_a_classifier_without_its_head_is_no_new_one(tmp_path: Path) -> None:
    folder = with_weights(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {
        "architectures": ["LlamaForSequenceClassification"],
        "num_labels": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for use in (RewardModelSpec(str(folder)).build, lambda: RewardModelJudge(str(folder)).judge("w1", "w2")):
        with pytest.raises(ValueError, match=r"score.weight"):
            use()


def test_what_others_trained_is_read_as_their_template_stands(tmp_path: Path) -> None:
    """The line break behind the turn belongs to what was scored in their training."""
    tokenizer = build(CHATML)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 1}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    model.save_pretrained(tmp_path)
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    with torch.no_grad():
        expected = model(**tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")).logits.item()
    judge = RewardModelJudge(str(tmp_path), batch_size=2)
    verdicts = judge.judge_many(["hi"] * 2, ["ho", "a longer answer"])
    assert verdicts[0].score == pytest.approx(expected, abs=1e-6)


def test_a_response_that_the_template_drops_has_no_score(tmp_path: Path) -> None:
    tokenizer = build(CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}"))
    write_policy(tmp_path / "model", tokenizer)
    reward = RewardModelSpec(str(tmp_path / "model")).build()
    reward.save(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    with pytest.raises(JudgeError, match="1 of 2 responses have no ids") as caught:
        RewardModelJudge(str(tmp_path / "reward")).judge_many(["hi"] * 2, ["<think>a</think>b", "b"])
    assert set(caught.value.verdicts) == {1}
    assert "leaves out what the row says" in caught.value.failures[0]


def test_how_prompts_were_laid_out_is_seen_in_their_ids() -> None:
    tokenizer = build(real_template("qwen3"))
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    chat = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    text = tokenizer("hi")["input_ids"]
    assert [share_laid_out(tokenizer, prompts) for prompts in ([chat], [chat[9:]], [text], [chat, text], [])] == [1, 1, 0, 0.5, 0]
    assert share_laid_out(build(None), [text]) == 0


def test_a_vocabulary_that_knows_neither_probe_shows_its_layout(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.write_tokenizer(tmp_path))
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "w1 w2"}], add_generation_prompt=True)["input_ids"]
    assert [share_laid_out(tokenizer, [ids]) for ids in (chat, tokenizer("w1 w2")["input_ids"])] == [1, 0]
