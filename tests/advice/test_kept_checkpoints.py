"""Checkpoints to fork from: a few older ones, and the one before the first warning; none of another callback's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from advice.origin import checkpoints_of, find_origin
from run_folder.files import append_row
from tests import tiny
from tests.advice.rig import make_run


class WarnsAt(Callback):
    """Writes the row of a notice at step 3 and that of a warning at step 7, which had shown from step 5 on."""

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 3:
            append_row(trainer, "alarms", {"step": 3, "property": "drastic_drop", "message": "", "level": "notice", "since": 3})
        if trainer.global_step == 7:
            append_row(trainer, "alarms", {"step": 7, "property": "suppression", "message": "", "level": "warning", "since": 5})


def kept(folder: Path, *callbacks: dict[str, Any], **options: Any) -> Path:
    """A run of 12 steps with a checkpoint every two."""
    keeper = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 2} | options}
    likelihood = {"class_path": "callbacks.diagnostics.likelihood.LikelihoodMonitor", "init_args": {"every_n_steps": 1}}
    config = {
        "seed_everything": 3,
        "trainer": tiny.trainer(folder, [keeper, likelihood, *callbacks], max_steps=12, max_epochs=-1),
        "model": tiny.module(folder),
        "data": tiny.pair_data(folder),
    }
    return make_run(folder, config)


def test_two_older_ones_stay_beside_the_newest(tmp_path: Path) -> None:
    run = kept(tmp_path)
    assert sorted(checkpoints_of(run)) == [8, 10, 12]
    assert (run / "checkpoints" / "last.ckpt").resolve() == checkpoints_of(run)[12]


def test_the_one_before_the_first_warning_stays(tmp_path: Path) -> None:
    run = kept(tmp_path, {"class_path": "tests.advice.test_kept_checkpoints.WarnsAt"}, keep_older=1)
    assert sorted(checkpoints_of(run)) == [4, 10, 12]
    assert find_origin(run).step == 4


def test_without_older_ones_the_newest_alone_stays(tmp_path: Path) -> None:
    run = kept(tmp_path, {"class_path": "tests.advice.test_kept_checkpoints.WarnsAt"}, keep_older=0)
    assert sorted(checkpoints_of(run)) == [12]


def test_a_full_disk_keeps_the_newest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**9, 10**9 - 10**5, 10**5))
    assert shutil.disk_usage("/").free == 10**5
    assert sorted(checkpoints_of(kept(tmp_path))) == [12]
