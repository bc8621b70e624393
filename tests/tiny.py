"""A policy, pair files and configs small enough to run whole experiments in tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_modules.models.specs import RandomPolicy

WORDS = [f"w{number}" for number in range(28)]
"""Vocabulary of the tiny tokenizer, besides its three special tokens."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)

POLICY: dict[str, Any] = {
    "class_path": "lightning_modules.models.specs.RandomPolicy",
    "init_args": {
        "config": {
            "model_type": "llama",
            "vocab_size": 31,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "seed": 3,
    },
}
"""A Llama of about 5,000 parameters over the tiny vocabulary."""


def write_tokenizer(folder: Path) -> Path:
    """A word tokenizer of 31 tokens, as a folder."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder


def write_model(folder: Path) -> Path:
    """The tiny policy with its tokenizer, as a Hugging Face folder."""
    RandomPolicy(**POLICY["init_args"]).build().save(folder)
    write_tokenizer(folder)
    return folder


def write_pairs(path: Path, count: int, seed: int = 0) -> Path:
    """`count` different random pairs with columns prompt, chosen, rejected."""
    generator = torch.Generator().manual_seed(seed)

    def text(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (length,), generator=generator).tolist())

    rows = [{"prompt": text(3, 7), "chosen": text(2, 8), "rejected": text(2, 8)} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair_data(folder: Path, *, supervised: bool = False, count: int = 24, **options: Any) -> dict[str, Any]:
    """Config of a data module over a tokenizer and a pair file that are written into `folder`."""
    name = "sft.SFTDataModule" if supervised else "preference.PreferenceDataModule"
    arguments = {
        "tokenizer": str(write_tokenizer(folder / "tokenizer")),
        "train": {"path": str(write_pairs(folder / "pairs.jsonl", count))},
        "format": {"class_path": "datamodules.formats.columns.PairColumns"},
        "val_fraction": 0.2,
        "batch_size": 4,
        "num_probe_prompts": 2,
        "cache_dir": str(folder / "cache"),
    }
    return {"class_path": f"datamodules.{name}", "init_args": arguments | options}


def module(folder: Path, *, supervised: bool = False, **options: Any) -> dict[str, Any]:
    """Config of a module that trains the tiny policy by SFT or DPO."""
    arguments: dict[str, Any] = {
        "policy": POLICY,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
    }
    if supervised:
        return {"class_path": "lightning_modules.sft.SFTModule", "init_args": arguments | options}
    arguments |= {"loss": {"class_path": "lightning_modules.losses.dpo.DPOLoss"}, "cache_dir": str(folder / "cache")}
    return {"class_path": "lightning_modules.preference.PreferenceModule", "init_args": arguments | options}


def trainer(folder: Path, callbacks: Sequence[dict[str, Any]] = (), **options: Any) -> dict[str, Any]:
    """Config of a quiet CPU trainer that logs to `folder`/runs as CSV and TensorBoard."""
    loggers = [
        {"class_path": f"lightning.pytorch.loggers.{name}", "init_args": {"save_dir": str(folder / "runs"), "name": None}}
        for name in ("CSVLogger", "TensorBoardLogger")
    ]
    defaults = {
        "accelerator": "cpu",
        "logger": loggers,
        "callbacks": list(callbacks),
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return defaults | options
