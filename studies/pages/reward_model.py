"""The page of the reward model: its order of held-out pairs of the shipped pool, scenario by scenario.

Beside it, on the same pairs: the log-likelihood of the policy that it started from, and "the longer response wins".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from datamodules.contracts.batches import CompletionBatch
from datamodules.loading.loader import EvaluationLoader, SplitDataset
from datamodules.loading.sampler import evaluation_plan
from datamodules.pool.data import PoolDataModule
from datamodules.pool.scenarios import SCENARIOS, PairRules
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from studies.readings import markdown_table
from studies.study import ROOT, SEED, Cell, Study

MODEL = str(ROOT / "assets/arithmetic/base")
POOL = str(ROOT / "assets/arithmetic/pool.jsonl.xz")
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


def rows(cell: Cell) -> Iterator[list[str]]:
    """A row for each scenario."""
    seed = int(cell.levels[SEED])
    trained = RewardModelSpec(str(ROOT / cell.folder / "reward_model")).build().eval()
    start = RewardModelSpec(MODEL, likelihood_scale=1.0).build().eval()
    for scenario in SCENARIOS:
        ours, policy, longer = (margins(rewards, scenario, seed) for rewards in (trained, start, lengths))
        readings = [accuracy(ours), calibration(ours), accuracy(policy), calibration(policy), accuracy(longer)]
        yield [str(seed), str(scenario), *readings]


def write(study: Study) -> None:
    """Write reward_model_table.md."""
    header = ["seed", "scenario", "reward model", "calibration error", "log-likelihood", "its calibration error", "longer wins"]
    table = markdown_table(header, (row for cell in study.cells if cell.is_complete for row in rows(cell)))
    said = f"± is a standard error, with the number of pairs; a tie counts half. Written by `python -m studies page {study.name}`."
    (study.out / "reward_model_table.md").write_text(f"# {study.title}\n\n{said}\n\n{table}\n", encoding="utf-8")
