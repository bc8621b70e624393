"""Two processes write what one writes, once, and none waits for the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import distributed
from torch.optim import SGD
from torch.utils.data import DataLoader

from callbacks.answers.samples import SampleLogger
from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from callbacks.output.run_summary import RunSummary
from callbacks.output.token_heatmap import TokenHeatmap
from callbacks.saving.policy_export import PolicyExport, free_folder
from datamodules.contracts.batches import CompletionBatch
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, ProbedPairs, fit

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


class EveryRankSaves(BigramPolicy):
    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank_{distributed.get_rank()}").touch()
        # The other rank is late: it goes on when this one has written.
        distributed.barrier()


class EveryRankSavesSpec(BigramSpec):
    def build(self) -> BigramPolicy:
        return EveryRankSaves()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:You defined a `validation_step`")
def test_two_ranks_export_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_at_late(run: Path, step: int, name: str) -> Path:
        if distributed.get_rank():
            (run / "policy").mkdir(exist_ok=True)
        return free_folder(run, step, name)

    monkeypatch.setattr("callbacks.saving.policy_export.free_folder", looked_at_late)
    module = PreferenceModule(EveryRankSavesSpec(), DPOLoss(), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    data = Sharded(PAIRS, MICROBATCHES, 2)
    fit(module, [PolicyExport()], tmp_path, data=data, use_distributed_sampler=False, devices=2, strategy="ddp_fork")
    saved = list((tmp_path / "run").glob("version_*/policy*/rank_*"))
    assert sorted(path.name for path in saved) == ["rank_0", "rank_1"]
    assert {path.parent.name for path in saved} == {"policy"}
    assert len({path.parent for path in saved}) == 1
