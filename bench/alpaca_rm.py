"""A reward model over SmolLM2-135M and DPO beside it: `python -m bench.alpaca_rm ANNOTATIONS MODEL [arm ...]`.

ANNOTATIONS is the file of AlpacaEval annotations, MODEL a folder of SmolLM2-135M-Instruct. One run after another into
runs/alpaca/<max_tokens>/fold<fold>/<arm>; a run that is complete is not made again: remove runs/alpaca for another file or model.
Then `python -m bench.alpaca_results MODEL`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import alpaca_probe
from bench.alpaca_pairs import Fold, write_folds
from bench.alpaca_probe import Choice
from bench.rm_dpo_twins import pairs_in
from lightning_modules.models.reward_model import Pooling
from train import main as train

GROUPS = ("--data.format", "datamodules.sources.scored.ScoredResponses", "--data.format.as_chat", "true")
FROZEN = (*GROUPS, "--model.policy.freeze_body", "true")
TUNED = (*GROUPS, "--model.policy.path", "{runs}/rm_head/version_0/reward_model")
NUM_LAYERS = 18
"""Of 30: the middle of what the folds of short answers choose (`rm_sum_cut`)."""
SUM_HEAD = (*FROZEN, "--model.policy.pooling", "sum", "--model.policy.num_layers", str(NUM_LAYERS))
REWARD_EXPORT = "callbacks.output.reward_export.RewardExport"
POLICY_EXPORT = "callbacks.output.policy_export.PolicyExport"


@dataclass(frozen=True)
class Probe:
    """The head that is best over the untrained body."""

    title: str
    pooling: Pooling = "last"
    cut: bool = False
    """Whether the body may end after an earlier layer."""
    choice: Choice | None = None
    """Depth and ridge, or what the other folds find best."""
    export: str = REWARD_EXPORT

    def make(self, name: str, model: str, fold: Fold) -> None:
        """Solve for it."""
        alpaca_probe.make(fold.folder / name / "version_0", model, fold, self.pooling, self.cut, self.choice)


@dataclass(frozen=True)
class Training:
    """One way to train."""

    title: str
    """As results call it."""
    experiment: str
    data: str
    """File that is trained on."""
    batch_size: int
    steps: int
    rate: str
    export: str
    options: tuple[str, ...] = ()
    """`{runs}` is filled in: a run may start from another's result."""

    def make(self, name: str, model: str, fold: Fold) -> None:
        """Train."""
        train(self.command(name, model, fold.folder))

    def command(self, name: str, model: str, runs: Path) -> list[str]:
        """Arguments of `train.py`; `runs` is the folder of a fold."""
        shape = {"num_steps": self.steps, "num_warmup_steps": 6, "final_fraction": 0.1}
        schedule = {"class_path": "lightning_modules.schedules.CosineSchedule", "init_args": shape}
        return [
            *("fit", "--config", f"configs/experiment/{self.experiment}.yaml", "--trainer", "bench/twins_trainer.yaml"),
            *("--model.policy.path", model, "--model.optimizer.lr", self.rate),
            *("--model.lr_scheduler", json.dumps(schedule)),
            *("--data.train.path", str(runs / self.data), "--data.val_fraction", "0", "--data.batch_size", str(self.batch_size)),
            *("--data.num_probe_prompts", "0", "--trainer.max_steps", str(self.steps)),
            *("--trainer.logger.save_dir", str(runs), "--trainer.logger.name", name, "--trainer.logger.version", "0"),
            *("--trainer.callbacks+", json.dumps({"class_path": self.export})),
            *("--trainer.callbacks+", json.dumps(reader(model, runs, self.steps // 2))),
            *(option.format(runs=runs) for option in self.options),
        ]


def groups(title: str, steps: int, rate: str, options: tuple[str, ...]) -> Training:
    """Training of a reward model on groups of answers."""
    return Training(title, "smollm2_alpaca_rm", "train_groups.jsonl", 8, steps, rate, REWARD_EXPORT, options)


ARMS: Mapping[str, Probe | Training] = {
    "rm_head": groups("head trained: last token", 64, "1e-3", FROZEN),
    "rm_tuned": groups("trained head, then the body (24 steps, 1e-5)", 24, "1e-5", TUNED),
    "rm_long": groups("trained head, then the body (48 steps, 2e-5)", 48, "2e-5", TUNED),
    "rm_probe": Probe("head solved: last token"),
    "rm_probe_cut": Probe("head solved, body cut: last token", cut=True),
    "rm_sum": Probe("head solved: sum over tokens", "sum"),
    "rm_sum_cut": Probe("head solved, body cut: sum over tokens", "sum", cut=True),
    "rm_sum_fixed": Probe("head solved: sum over tokens, 18 layers, ridge 1", "sum", cut=True, choice=Choice(NUM_LAYERS, 1.0)),
    "rm_sum_head": groups("head trained: sum over tokens, 18 layers (192 steps, 1e-5)", 192, "1e-5", SUM_HEAD),
    "rm_groups": groups("head and body at once: last token", 64, "5e-5", GROUPS),
    "rm_pairs": Training("reward model: 384 pairs", "smollm2_alpaca_rm", "train_pairs.jsonl", 16, 24, "5e-5", REWARD_EXPORT),
    "dpo_pairs": Training("DPO: the same 384 pairs", "smollm2_alpaca_dpo", "train_pairs.jsonl", 16, 24, "2e-5", POLICY_EXPORT),
}
"""Name -> how it is run. 64 steps of groups are one pass; a body goes on from a head that has seen all of them."""


def reader(model: str, runs: Path, every_n_steps: int) -> dict[str, Any]:
    """Config of the callback that reads pairs as the model trains."""
    sets: dict[str, Any] = {
        side: {"data": pairs_in(runs / f"{side}_pairs.jsonl", model, as_chat=True), "split": "train"}
        for side in ("train", "held_out")
    }
    sets["train"]["num_pairs"] = 32
    return {
        "class_path": "callbacks.diagnostics.pair_accuracy.PairAccuracy",
        "init_args": {"every_n_steps": every_n_steps, "sets": sets},
    }


def folder(name: str, fold: Fold) -> Path:
    """Where the rows of a run are."""
    return fold.folder / name / "version_0"


def exported(name: str, fold: Fold) -> Path:
    """Where its model is; saving it is the last thing a run does."""
    return folder(name, fold) / ("reward_model" if ARMS[name].export == REWARD_EXPORT else "policy")


def make(name: str, fold: Fold, model: str) -> None:
    """Make a run if it is missing; one that was cut short is made anew."""
    if not exported(name, fold).is_dir():
        shutil.rmtree(folder(name, fold), ignore_errors=True)
        ARMS[name].make(name, model, fold)


def main() -> None:
    """Make what is asked for and missing; every arm with the first fold by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("model")
    parser.add_argument("arms", nargs="*", choices=[*ARMS, []], help="all by default")
    parser.add_argument("--folds", type=lambda text: [int(fold) for fold in text.split(",")], default=[0])
    parser.add_argument("--max_tokens", type=int, default=Fold(0).max_tokens, help="of a prompt, and of an answer")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    write_folds(arguments.annotations, arguments.model, arguments.max_tokens)
    for number, name in itertools.product(arguments.folds, arguments.arms or ARMS):
        make(name, Fold(number, arguments.max_tokens), arguments.model)


if __name__ == "__main__":
    main()
