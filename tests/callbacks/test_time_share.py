"""Checkpoints take their share of a run's time and no more, by a clock of the test's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import SGD
from typing_extensions import override

from callbacks.saving import time_share
from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.checkpoint_file import WholeFileIO
from callbacks.saving.time_share import TimeShare
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, fit

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time_share, "monotonic", lambda: self.now)


class Steps(Callback):
    """A step takes a minute."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.clock.now += 60


def saved_steps(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, **options: Any) -> list[int]:
    """Steps whose checkpoint was written by a run of six, one asked for at each."""
    clock = Clock(monkeypatch)
    written: list[int] = []

    def slow(self: WholeFileIO, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        clock.now += seconds
        written.append(int(checkpoint["global_step"]))
        save(self, checkpoint, path, storage_options)

    save = WholeFileIO.save_checkpoint
    monkeypatch.setattr(WholeFileIO, "save_checkpoint", slow)
    module = PreferenceModule(BigramSpec(), DPOLoss(), partial(SGD, lr=0.1), cache_dir=str(folder / "cache"))
    callbacks = [Steps(clock), RunCheckpoint(1, **options)]
    fit(module, callbacks, folder, data=ProbedPairs(PAIRS, [[0, 1, 2], [3, 4]], 1), max_epochs=3)
    monkeypatch.setattr(WholeFileIO, "save_checkpoint", save)
    return written


def test_a_save_is_due_when_all_of_them_keep_within_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    share = TimeShare(0.01)
    share.begin()
    assert share.is_due, "nobody knows yet what one takes"
    with share.saving():
        clock.now += 30
    # Two of 30 seconds are a hundredth of 6,000.
    assert (share.is_due, share.wait) == (False, 5970.0)
    clock.now += 5970
    assert share.is_due


def test_slow_checkpoints_are_put_off_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match=r"step 2 is put off by about 31 minutes: the last one took 10 s, and all are to take 1%"):
        assert saved_steps(tmp_path, monkeypatch, 10.0) == [1, 6]


def test_what_is_short_or_was_asked_for_is_saved_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert saved_steps(tmp_path / "short", monkeypatch, 1.0) == [1, 2, 3, 4, 5, 6]
    assert saved_steps(tmp_path / "asked", monkeypatch, 10.0, max_share=None) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"expected max_share in \(0, 1\) or null, got 1"):
        RunCheckpoint(max_share=1.0)
