"""A reward model on held-out pairs of the shipped pool, scenario by scenario: `python -m bench.reward_model [run folder ...]`.

Beside it, on the same pairs: the log-likelihood of the policy that it started from, and "the longer response wins". A run's folder
says which prompts it held out (`data.init_args.seed` in its config.yaml). Accuracy counts a tie as 1/2; +- is the standard error.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from datamodules.batches import CompletionBatch
from datamodules.loading.loader import EvaluationLoader, SplitDataset
from datamodules.loading.sampler import evaluation_plan
from datamodules.pool.data import PoolDataModule
from datamodules.pool.scenarios import SCENARIOS, PairRules
from lightning_modules.models.reward_model import RewardModelSpec

MODEL = "assets/arithmetic/base"
POOL = "assets/arithmetic/pool.jsonl.xz"
Rewards = Callable[[CompletionBatch], Tensor]
"""`[Q]` of a batch."""


def held_out(scenario: int, seed: int) -> Iterator[CompletionBatch]:
    """The pairs that configs/data/arithmetic_rm.yaml holds out under a seed, as a scenario pairs those prompts."""
    data = PoolDataModule(POOL, scenario, MODEL, rules=PairRules(min_gap=1.0), val_fraction=0.2, max_length=256, seed=seed)
    pairs = data.examples("val")
    assert pairs is not None, "a share is held out"
    dataset = SplitDataset(pairs)
    yield from EvaluationLoader(dataset, evaluation_plan(dataset.lengths.rows, max_tokens=16384))


def margins(rewards: Rewards, scenario: int, seed: int) -> Tensor:
    """`[pairs]` r+ - r-."""
    with torch.no_grad():
        both = [rewards(batch)[batch.pairs] for batch in held_out(scenario, seed)]
    return torch.cat([pair[:, 0] - pair[:, 1] for pair in both]).float()


def accuracy(values: Tensor) -> str:
    """Share of the pairs that are ordered rightly, with its standard error and the number of pairs."""
    share = float(((values.sign() + 1) / 2).mean())
    return f"{share:.3f} ± {(share * (1 - share) / len(values)) ** 0.5:.3f} ({len(values)})"


def calibration(values: Tensor) -> str:
    """Expected error of sigma(margin), 10 bins, each pair in both orders."""
    both, right = torch.cat([values, -values]), torch.cat([torch.ones(len(values)), torch.zeros(len(values))])
    return f"{float(binary_calibration_error(both.sigmoid(), right.long(), n_bins=10)):.3f}"


def lengths(batch: CompletionBatch) -> Tensor:
    """The rule "longer wins" as a reward: tokens."""
    return batch.lengths.float()


def rows(run: Path) -> Iterator[list[str]]:
    """A row for each scenario."""
    seed = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]["init_args"]["seed"]
    trained = RewardModelSpec(str(run / "reward_model")).build().eval()
    start = RewardModelSpec(MODEL, likelihood_scale=1.0).build().eval()
    for scenario in SCENARIOS:
        ours, policy, longer = (margins(rewards, scenario, seed) for rewards in (trained, start, lengths))
        readings = [accuracy(ours), calibration(ours), accuracy(policy), calibration(policy), accuracy(longer)]
        yield [f"{run.parent.name}, seed {seed}", str(scenario), *readings]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs/arithmetic_rm/version_0")])
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    header = ["run", "scenario", "reward model", "calibration error", "log-likelihood", "its calibration error", "longer wins"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for run in parser.parse_args().runs:
        for row in rows(run):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
