"""A reward model and DPO as twins: `python -m bench.rm_dpo_twins`, then `python -m bench.twins_results`.

Both from the same weights, on the same pairs of scenario 1 in the same order, with the same optimizer over one grid of learning
rates; read on the same sets of pairs as they train (paper Sec. 5.3). One run after another in one process, seeds outermost; a run
that is complete is not made again.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.slips import write
from run_folder.rows import read_rows
from train import main as train

RUNS = Path(__file__).parent.parent / "runs" / "twins"
MODEL = "assets/arithmetic/base"
POOL = "configs/data/arithmetic_pool.yaml"
KINDS: Mapping[str, tuple[str, ...]] = {"dpo": ("--model.loss.beta", "0.1"), "rm": ("--model", "bench/twins_rm.yaml")}
"""Trained model -> options beside those of configs/experiment/arithmetic_dpo.yaml."""
RATES = ("1e-4", "3e-4", "1e-3")
SEEDS = (0, 1, 2)
STEPS = 60
EVERY = 6
NUM_PAIRS = 96
HELD_OUT = 0.2
SETS: Mapping[str, str] = {
    "train": "pairs that are trained on",
    "held_out": "the same scenario, other prompts",
    "scenario_2": "those prompts: the data set's solution against the policy's worst",
    "scenario_3": "the policy's best against the weaker model's worst",
    "scenario_4": "the data set's solution against the weaker model's worst",
    "slips": "new problems: a right solution against the same with one wrong result",
    "other_stories": "the same of stories that the model has never seen",
}
"""Set -> what its pairs are."""


@dataclass(frozen=True)
class Twin:
    """One run."""

    kind: str
    rate: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where its rows are."""
        return RUNS / f"{self.kind}_lr{self.rate}_seed{self.seed}" / "version_0"

    @property
    def is_complete(self) -> bool:
        """Whether its last step was read."""
        rows = read_rows(self.folder, "pair_accuracy")
        return bool(rows) and rows[-1]["step"] == STEPS

    def command(self) -> list[str]:
        """Arguments of `train.py`."""
        return [
            *("fit", "--config", "configs/experiment/arithmetic_dpo.yaml", "--trainer", "bench/twins_trainer.yaml"),
            *KINDS[self.kind],
            *("--model.optimizer.lr", self.rate, "--data.val_fraction", str(HELD_OUT), "--data.num_probe_prompts", "0"),
            *("--trainer.max_steps", str(STEPS), "--trainer.logger.name", self.folder.parent.name, "--trainer.logger.version", "0"),
            *("--seed_everything", str(self.seed), "--data.seed", str(self.seed)),
            *("--trainer.callbacks+", json.dumps(reader(self.seed))),
        ]


def reader(seed: int) -> dict[str, Any]:
    """Config of the callback. Pairs of all scenarios are on the same prompts: one seed holds the same ones out of each."""
    sets: dict[str, Any] = {"train": {"split": "train"}, "held_out": {"split": "val"}}
    sets |= {f"scenario_{number}": {"split": "val", "data": scenario(number, seed)} for number in (2, 3, 4)}
    sets |= {name: {"split": "train", "data": pairs_in(RUNS / f"{name}.jsonl")} for name in ("slips", "other_stories")}
    sets = {name: content | {"num_pairs": NUM_PAIRS} for name, content in sets.items()}
    return {"class_path": "callbacks.diagnostics.pair_accuracy.PairAccuracy", "init_args": {"every_n_steps": EVERY, "sets": sets}}


def scenario(number: int, seed: int) -> dict[str, Any]:
    """The run's data module with another scenario; its rules are those of configs/data/arithmetic_pool.yaml."""
    arguments = {
        "pool": "assets/arithmetic/pool.jsonl.xz",
        "scenario": number,
        "tokenizer": MODEL,
        "rules": {"min_gap": 1.0, "min_chosen_score": 4.0},
        "val_fraction": HELD_OUT,
        "seed": seed,
    }
    return {"class_path": "datamodules.pool.data.PoolDataModule", "init_args": arguments}


def pairs_in(path: Path, tokenizer: str = MODEL, as_chat: bool = False) -> dict[str, Any]:
    """Config of a data module that trains on the pairs in a file, all of them."""
    arguments = {
        "tokenizer": tokenizer,
        "train": {"path": str(path)},
        "format": {"class_path": "datamodules.sources.formats.PairColumns", "init_args": {"as_chat": as_chat}},
        "val_fraction": 0.0,
    }
    return {"class_path": "datamodules.preference.PreferenceDataModule", "init_args": arguments}


def twins() -> list[Twin]:
    """Every run: seeds outermost, so that what is there when it is stopped early has the whole grid."""
    return [Twin(kind, rate, seed) for seed, rate, kind in itertools.product(SEEDS, RATES, KINDS)]


def make(runs: Iterable[Twin]) -> None:
    """Make what is missing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    write(RUNS, NUM_PAIRS)
    for run in runs:
        if not run.is_complete:
            shutil.rmtree(run.folder, ignore_errors=True)
            print(run.folder.parent.name, flush=True)
            train(run.command())


if __name__ == "__main__":
    make(twins())
