"""Two processes write what one writes, once, and none waits for the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD
from torch.utils.data import DataLoader

from callbacks.degradation import DegradationMonitor
from callbacks.dispersion import DispersionMonitor
from callbacks.likelihood import LikelihoodMonitor
from callbacks.rows import read_rows
from callbacks.run_summary import RunSummary
from callbacks.samples import SampleLogger
from callbacks.softmax_gradient import SoftmaxGradientMonitor
from callbacks.token_heatmap import TokenHeatmap
from datamodules.batches import CompletionBatch
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, fit

MICROBATCHES = [[0, 1, 2], [3, 4], [0], [1, 2, 3, 4]]


class Sharded(ProbedPairs):
    """Every rank takes its own microbatches of a step of two."""

    def train_dataloader(self) -> DataLoader[CompletionBatch]:
        assert self.trainer is not None
        batches = list(self._batches())
        return DataLoader(batches[self.trainer.global_rank :: self.trainer.world_size], batch_size=None)  # type: ignore[arg-type]


def rows_of(folder: Path, **options: Any) -> dict[str, list[dict[str, Any]]]:
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(folder / "cache"))
    monitors = [LikelihoodMonitor(1, 1), SoftmaxGradientMonitor(1, 1), DegradationMonitor(1), DispersionMonitor(1, 1)]
    others = [TokenHeatmap(1), SampleLogger(1), RunSummary()]
    fit(module, [*monitors, *others], folder, data=Sharded(PAIRS, MICROBATCHES, 2), use_distributed_sampler=False, **options)
    return {monitor.name: read_rows(folder / "run" / "version_0", monitor.name) for monitor in monitors}


# Forking a process that has threads, and the copies of the parent's files at exit, are the test's own doing.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:You defined a `validation_step`")
def test_two_ranks_write_the_rows_of_one(tmp_path: Path) -> None:
    one = rows_of(tmp_path / "one", accumulate=2)
    two = rows_of(tmp_path / "two", devices=2, strategy="ddp_fork")
    assert [row["step"] for row in one["likelihood"]] == [0, 1, 2]
    for name, rows in one.items():
        assert len(two[name]) == len(rows)
        for row, other in zip(rows, two[name], strict=True):
            assert other == pytest.approx(row, rel=1e-4, abs=1e-5)
