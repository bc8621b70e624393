"""Examines the pairs before the first step, prints their risks, and writes them into the run's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm
from typing_extensions import override

from callbacks.mathematics.head_geometry import HeadReader
from callbacks.mathematics.pair_risks import model_facts, pair_facts, pair_keys, repeated, warnings
from callbacks.output.console import say
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import SplitStore, data_of, meets
from datamodules.loading.lengths import Ints
from datamodules.loading.loader import SplitDataset
from datamodules.loading.sampler import Microbatch
from lightning_modules.contracts import HasPolicy
from run_folder.files import run_folder

FILE = "data_doctor.json"

_PACKED_AT_ONCE, _SHOWN = 32, 3

_WORDS = {
    "pairs": "pairs looked at",
    "identical": "same on both sides",
    "duplicate_pairs": "pairs that repeat an earlier one",
    "repeated_prompts": "further pairs of a prompt",
    "chosen_tokens": "tokens, chosen",
    "rejected_tokens": "tokens, rejected",
    "longer_wins": 'accuracy of "the longer one wins"',
    "shared_prefix": "share of chosen before the two part",
    "overlap": "share of chosen's tokens that rejected holds",
    "reference_chosen": "reference log-prob per token, chosen (nats)",
    "reference_rejected": "reference log-prob per token, rejected (nats)",
    "reference_gap": "the same, chosen minus rejected",
    "reference_right": "pairs the reference ranks right",
    "surplus_chosen": "surprise over entropy per token, chosen (bank)",
    "surplus_rejected": "surprise over entropy per token, rejected (bank)",
    "on_policy_chosen": "about on-policy, chosen (bank)",
    "on_policy_rejected": "about on-policy, rejected (bank)",
    "ches": "CHES (bank)",
    "ches_per_token": "CHES, length-normalised (bank)",
    "displaced": "pairs whose chosen a first step is to lower (bank)",
    "cosine": "cosine of the two output-layer gradients (bank)",
}


class DataDoctor(Callback):
    """Prints and writes (`<run>/data_doctor.json`) what the training pairs risk, when a training starts; nothing without pairs.

    Reads the cached tokens and reference log-probs of up to `max_pairs` training pairs, and of the probe bank what the monitors
    evaluate at step 0 anyway. "bank" in the table: on those few pairs. Definitions: `callbacks.mathematics.pair_risks`.

    Args:
        max_pairs: pairs that are read, drawn evenly from the data; a few milliseconds for a hundred.
    """

    def __init__(self, max_pairs: int = 2000) -> None:
        if max_pairs < 1:
            raise ValueError(f"expected max_pairs >= 1, got {max_pairs}. Leave the callback out to switch it off.")
        self.max_pairs = max_pairs
        self._console = Console()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        datamodule = data_of(trainer)
        if trainer.global_step or not meets(datamodule, SplitStore):
            return
        splits = datamodule.splits()
        dataset = datamodule.dataset("train" if "train" in splits else next(iter(splits)))
        # A sharded policy needs all ranks for a forward pass: ask on each, count on one.
        bank = self._bank_facts(pl_module) if meets(pl_module, HasPolicy) else {}
        if not trainer.is_global_zero or not isinstance(dataset, SplitDataset):
            return
        facts = self._pair_facts(dataset)
        if facts:
            highest: list[str] = bank.pop("highest_ches_rows", [])
            self._tell(trainer, facts | bank, highest)

    def _pair_facts(self, dataset: SplitDataset) -> dict[str, Any]:
        keys: list[tuple[int, int, int]] = []
        parts: list[dict[str, Tensor]] = []
        total = math.ceil(min(len(dataset.lengths.rows), self.max_pairs) / _PACKED_AT_ONCE)
        for batch in tqdm(self._batches(dataset), "Looking at the pairs", total=total, unit=" batches", leave=False, delay=1):
            if not len(batch.pairs):
                return {}
            keys += pair_keys(batch)
            parts.append(pair_facts(batch))
        if not parts:
            return {}
        names = dict.fromkeys(name for part in parts for name in part)
        means = {name: torch.cat([part[name] for part in parts if name in part]).mean().item() for name in names}
        return {"pairs": len(keys), **repeated(keys), **means}

    def _batches(self, dataset: SplitDataset) -> Iterator[CompletionBatch]:
        everything = np.arange(len(dataset.lengths.rows))
        # Where a short run scored some pairs only, those first, in batches of their own: the others have no reference.
        scored = everything[:0] if dataset.scored is None else _evenly(dataset.scored, self.max_pairs)
        others = _evenly(np.setdiff1d(everything, scored), self.max_pairs - len(scored))
        for chosen in (scored.tolist(), others.tolist()):
            for start in range(0, len(chosen), _PACKED_AT_ONCE):
                indices = tuple(chosen[start : start + _PACKED_AT_ONCE])
                yield dataset[Microbatch(indices, dataset.lengths.share([indices]))]

    def _bank_facts(self, module: HasPolicy) -> dict[str, Any]:
        reader, parts, rows = HeadReader(), [], list[str]()
        for batch, stats in module.probe_evaluation():
            if len(batch.pairs):
                parts.append(model_facts(batch, stats, reader.geometry_of(module.policy, batch, stats)))
                rows += _row_names(batch)
        if not parts:
            return {}
        facts = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = facts["ches"].argsort(descending=True) if "ches" in facts else torch.empty(0, dtype=torch.long)
        means: dict[str, Any] = {name: values.mean().item() for name, values in facts.items()}
        return means | {"highest_ches_rows": [rows[number] for number in order[:_SHOWN].tolist()]}

    def _tell(self, trainer: Trainer, facts: dict[str, Any], highest: list[str]) -> None:
        said = warnings(facts)
        if highest:
            facts["highest_ches_rows"] = ", ".join(highest)
        folder = run_folder(trainer)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            rows = _row_report(folder)
            content = {"rows": rows, "pairs": facts, "warnings": said}
            (folder / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        say(self._console, doctor_table(facts), *(f"  ! {sentence}" for sentence in said))


def doctor_table(facts: dict[str, Any]) -> Table:
    """The findings as a table."""
    table = Table(title="The pairs, before training", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, words in _WORDS.items():
        if name in facts:
            value = facts[name]
            table.add_row(words, f"{value:.3g}" if isinstance(value, float) else str(value))
    if "highest_ches_rows" in facts:
        table.add_row("rows of highest CHES (bank)", facts["highest_ches_rows"])
    return table


def _evenly(numbers: Ints, count: int) -> Ints:
    """`count` of the numbers at the most, evenly spread."""
    if count < 1 or not len(numbers):
        return numbers[:0]
    drawn: Ints = numbers[np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), count)).round().astype(int))]
    return drawn


def _row_names(batch: CompletionBatch) -> list[str]:
    """The row of each pair, with its source where there are several."""
    first = batch.pairs[:, 0].tolist()
    return [f"{batch.sources[pair]} {batch.row_numbers[pair]}".strip() for pair in first]


def _row_report(folder: Path) -> dict[str, Any]:
    """Counts of the reader's own report on the rows, where the data came from a file: bad rows by kind, and what was cut."""
    path = folder / "data_train.json"
    if not path.is_file():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    counts = {name: report[name] for name in ("rows_read", "rows_kept", "truncated_prompts", "truncated_completions")}
    return counts | {fault: len(count["rows"]) for fault, count in report["faults"].items()}
