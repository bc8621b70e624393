from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch.optim import SGD
from torch.utils.data import DataLoader

from callbacks.diagnostics.source_metrics import SourceMetrics
from datamodules.contracts.batches import CompletionBatch
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, events, fit


class Mixed(ProbedPairs):
    def val_dataloader(self) -> DataLoader[CompletionBatch]:
        return self.train_dataloader()


# The first pair of each of the two batches comes from `a`, the others from `b`.
MIXED = [replace(example, source="a" if number in (0, 3) else "b") for number, example in enumerate(PAIRS)]


def _module(folder: Path) -> PreferenceModule:
    return PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(folder / "cache"))


def test_sources_add_up_to_the_whole(tmp_path: Path) -> None:
    run = fit(_module(tmp_path), [SourceMetrics(1)], tmp_path, data=Mixed(MIXED, [[0, 1, 2], [3, 4]], 1))
    scalars = events(run)

    def at(name: str, step: int) -> float:
        value: float = next(event.value for event in scalars.Scalars(name) if event.step == step)
        return value

    for step, size in ((1, 3), (2, 2)):
        for metric in ("loss", "rewards/margins", "rewards/accuracies"):
            whole = at(f"train/{metric}", step)
            assert (at(f"source/a/{metric}", step) + (size - 1) * at(f"source/b/{metric}", step)) / size == pytest.approx(whole)
    # Five validation pairs in two batches: two of them from a.
    for metric in ("loss", "rewards/accuracies"):
        apart = (2 * at(f"val/source/a/{metric}", 2) + 3 * at(f"val/source/b/{metric}", 2)) / 5
        assert apart == pytest.approx(scalars.Scalars(f"val/{metric}")[0].value, rel=1e-5)
    assert {"source/a/loss", "val/source/b/loss"} <= {name for row in read_rows(Path(run.log_dir or ""), "source") for name in row}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_without_sources_there_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    run = fit(_module(tmp_path), [SourceMetrics(1)], tmp_path)
    assert not any("source/" in name for name in events(run).Tags()["scalars"])
    assert not list(read_rows(Path(run.log_dir or ""), "source"))
