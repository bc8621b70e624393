"""Writes the same model, tokenizer and pairs to disk for both sides of a benchmark, without the network.

Lengths are (prompt, chosen, rejected) token counts with the SmolLM2 tokenizer, end-of-sequence included, of a seeded sample of
two real sets, clipped to 512 prompt tokens and 1,024 in all: `long_response` from the AlpacaEval annotations, `long_prompt`
from HH-RLHF harmless-base dialogues. Token ids are random; speed does not depend on them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from datamodules.loading.lengths import Lengths
from datamodules.loading.step_plans import FixedSizePlan

EOS = "<eos>"


@dataclass(frozen=True)
class Shape:
    """A decoder's shape."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = True

    def config(self) -> LlamaConfig:
        """The Llama configuration of this shape."""
        return LlamaConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocab,
            tie_word_embeddings=self.tied,
            max_position_embeddings=8192,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )


SHAPES = {
    "smollm2-6-layers": Shape(6, 576, 1536, 9, 3, 49152),
    "smollm2-135m": Shape(30, 576, 1536, 9, 3, 49152),
    "qwen2.5-0.5b": Shape(24, 896, 4864, 14, 2, 151936),
    "qwen2.5-1.5b": Shape(28, 1536, 8960, 12, 2, 151936),
    "dry-run": Shape(2, 64, 128, 4, 2, 512),
}


def build_workload(folder: Path, shape: str, mix: str, pairs: int, seed: int = 0) -> Path:
    """Write `model/` (random weights, tokenizer) and `pairs.jsonl` under `folder`, unless they are there; returns it."""
    description = json.dumps({"shape": asdict(SHAPES[shape]), "mix": mix, "pairs": pairs, "seed": seed})
    stamp = folder / "workload.json"
    if stamp.is_file() and stamp.read_text() == description:
        return folder
    build_pairs(folder, shape, mix, pairs, seed)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(SHAPES[shape].config(), dtype=torch.float32)
    model.save_pretrained(folder / "model")
    stamp.write_text(description)
    return folder


def build_pairs(folder: Path, shape: str, mix: str, pairs: int, seed: int = 0) -> Path:
    """Write a tokenizer to `model/` and `pairs.jsonl` under `folder`, without weights; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(SHAPES[shape].vocab).save_pretrained(folder / "model")
    _write_pairs(folder / "pairs.jsonl", read_lengths(mix)[:pairs], SHAPES[shape].vocab, seed)
    return folder


def write_in_order(folder: Path, pairs_per_step: int) -> Path:
    """`pairs_in_order.jsonl`: the same pairs in the order in which our step plan (seed 0, first epoch) takes them."""
    rows = (folder / "pairs.jsonl").read_text().splitlines()
    tokens = np.array([sum(len(cell.split()) for cell in json.loads(row).values()) + 2 for row in rows])
    plan = FixedSizePlan(
        Lengths(rows=tokens, targets=tokens), batch_size=pairs_per_step, microbatches=1, max_tokens=1 << 30, seed=0
    )
    path = folder / "pairs_in_order.jsonl"
    path.write_text("".join(rows[i] + "\n" for step in plan.compositions(0) for microbatch in step for i in microbatch))
    return path


def read_lengths(mix: str) -> list[tuple[int, int, int]]:
    """(prompt, chosen, rejected) token counts of the mix."""
    rows = json.loads(Path(__file__).with_name("lengths.json").read_text())[mix]
    return [(prompt, chosen, rejected) for prompt, chosen, rejected in rows]


def _tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    # A word is a token id, so that both sides see exactly the ids that were drawn.
    words = {EOS: 0, "<pad>": 1} | {f"w{i}": i for i in range(2, vocab)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=EOS, pad_token="<pad>")


def _write_pairs(path: Path, lengths: list[tuple[int, int, int]], vocab: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> str:
        return " ".join(f"w{i}" for i in torch.randint(2, vocab, (count,), generator=generator).tolist())

    with path.open("w") as rows:
        for prompt, chosen, rejected in lengths:
            # One token of each completion is the end-of-sequence token, which both sides append.
            pair = {
                "prompt": words(prompt) + " ",
                "chosen": words(max(chosen - 1, 1)),
                "rejected": words(max(rejected - 1, 1)),
            }
            rows.write(json.dumps(pair) + "\n")
