"""Saves checkpoints to resume from: every n optimizer steps, and always after the last one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from callbacks.saving.checkpoint_file import ThreadedFileIO, WholeFileIO
from callbacks.saving.checkpoint_folder import seal
from callbacks.saving.time_share import TimeShare
from datamodules.contracts.ranges import require_at_least
from run_folder.files import flush_loggers, run_folder
from run_folder.rows import first_warning_since

_STEP = re.compile(r"step=(\d+)")
_ROOM = 10
"""Checkpoints that the disk has room for, before older ones are kept."""


class RunCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint of a run, `last.ckpt` as a link to it, and a few older ones to fork from (`advise.py`).

    A run that was killed goes on from there with `--ckpt_path`, in a new run folder, to the same bits as one that was not.
    Differs from Lightning's ModelCheckpoint: `last.ckpt` is whole whenever the process dies, the step that ends the training is
    saved whatever the cadence, and a run resumed into another folder keeps its own list of files, without a warning. With the
    plugin AsyncCheckpointIO a thread writes while the training goes on; link and older files wait for it.

    Args:
        every_n_train_steps: cadence in optimizer steps, >= 1. A checkpoint holds weights and optimizer state: for AdamW in
            float32 12 bytes a parameter (with the exported policy a run's folder has 16), and what the monitors compare with.
        keep_all: keep every checkpoint.
        keep_older: how many stay beside the newest, >= 0; they take no time, for they are written anyway, and disk as the newest
            does. The one before the first warning of an alarm stays too. All go while the disk has room for fewer than ten more.
        max_share: of the run's time that checkpoints may take, in (0, 1): one that would exceed it is put off to a later step of
            the cadence, and that is said. The last step is saved in any case. null saves as often as every_n_train_steps says.

    Raises:
        ValueError: if a number is out of range, or when a command starts, if a thread is to write what all processes write.
    """

    def __init__(
        self, every_n_train_steps: int = 50, keep_all: bool = False, keep_older: int = 2, max_share: float | None = 0.01
    ) -> None:
        require_at_least(1, every_n_train_steps=every_n_train_steps)
        require_at_least(0, keep_older=keep_older)
        if max_share is not None and not 0 < max_share < 1:
            raise ValueError(f"expected max_share in (0, 1) or null, got {max_share}. 0.01 is a hundredth of the run's time.")
        super().__init__(every_n_train_steps=every_n_train_steps, save_top_k=-1 if keep_all else 1)
        self.cadence = every_n_train_steps
        self.keep_older = keep_older
        self.max_share = max_share
        self._time = TimeShare(max_share)
        self._has_said = False
        self._older: dict[str, int] = {}
        self.newest: str | None = None
        """The checkpoint that was written last."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            if _writes_folders(trainer):
                raise ValueError(
                    "expected checkpoints of FSDP2 to be written by all processes, each its part, got AsyncCheckpointIO, which has "
                    "one write a file. Set the strategy's save_distributed_checkpoint: false, or leave the plugin out."
                )
            trainer.strategy.checkpoint_io = ThreadedFileIO()
        # A plugin that the user chose stays.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning's own hook does the same, but under manual optimization (PPO) not without a warning at every save. The last
        # step here and not in on_train_end, where Lightning counts the epoch as complete even if max_steps cut it short.
        is_final = trainer.should_stop or trainer.global_step == trainer.estimated_stepping_batches
        if is_final or (trainer.global_step % self.cadence == 0 and self._is_due(trainer)):
            self.save_now(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._time.begin()

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether a checkpoint of the cadence may take its time now: the first rank's clock decides for all."""
        is_due = bool(trainer.strategy.broadcast(self._time.is_due))
        if not is_due and not self._has_said:
            self._has_said = True
            rank_zero_warn(
                f"The checkpoint of step {trainer.global_step} is put off by about {self._time.wait / 60:.0f} minutes: the last "
                f"one took {self._time.last:.0f} s, and all are to take {self.max_share:.0%} of the run's time (RunCheckpoint's "
                "max_share; null for every one)."
            )
        return is_due

    def save_now(self, trainer: Trainer) -> None:
        """Save the step that has just been taken, unless it is saved. Call it on every rank, from `on_train_batch_end`."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def finish(self, trainer: Trainer) -> None:
        """Return when everything that was saved is on the disk.

        Raises:
            OSError: or what else it was that kept a checkpoint from being written.
        """
        if isinstance(trainer.strategy.checkpoint_io, WholeFileIO):
            trainer.strategy.checkpoint_io.finish()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self.finish(trainer)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)

    @override
    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        _when_whole(trainer, lambda: self._make_room(trainer, filepath))

    def _make_room(self, trainer: Trainer, filepath: str) -> None:
        # Called with the one that was the newest; the first rank alone removes files, and so decides alone.
        named = _STEP.search(Path(filepath).name)
        self._older[filepath] = int(named[1]) if named else trainer.global_step
        kept = self._to_fork_from(trainer) if trainer.is_global_zero and _has_room(Path(filepath)) else set()
        for path in [path for path in self._older if path not in kept]:
            del self._older[path]
            ModelCheckpoint._remove_checkpoint(self, trainer, path)

    def _to_fork_from(self, trainer: Trainer) -> set[str]:
        """The latest older ones, and the one before the first warning."""
        by_step = sorted(self._older, key=self._older.__getitem__)
        kept = set(by_step[len(by_step) - self.keep_older :])
        folder = run_folder(trainer)
        since = first_warning_since(folder) if folder is not None and self.keep_older else None
        before = [path for path in by_step if since is not None and self._older[path] < since]
        return kept | set(before[-1:])

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # What was logged up to here is logged by no resumed run: it has to be on the disk when the checkpoint is.
        flush_loggers(trainer)
        target = Path(filepath)
        with self._time.saving():
            self._write(trainer, target)
        self.newest = filepath
        # Before the older file goes.
        if trainer.is_global_zero:
            link = target.with_name(f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}")
            _when_whole(trainer, lambda: _point(link, target.name))

    def _write(self, trainer: Trainer, target: Path) -> None:
        if not _writes_folders(trainer):
            super()._save_checkpoint(trainer, str(target))
            return
        written = target.with_name(f".{target.name}.partial")
        super()._save_checkpoint(trainer, str(written))
        self._last_checkpoint_saved = str(target)
        seal(written, target)


def _when_whole(trainer: Trainer, action: Callable[[], None]) -> None:
    """Do something when the checkpoint that was saved last is on the disk."""
    plugin = trainer.strategy.checkpoint_io
    if isinstance(plugin, WholeFileIO):
        plugin.then(action)
    else:
        action()


def _writes_folders(trainer: Trainer) -> bool:
    """Whether each process writes its own part of a checkpoint, which takes no plugin."""
    strategy = trainer.strategy
    return isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint


def _has_room(path: Path) -> bool:
    """Whether the disk has room for ten checkpoints more."""
    if not path.exists():
        # On no disk of this machine.
        return False
    files = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return shutil.disk_usage(path.parent).free >= _ROOM * sum(file.stat().st_size for file in files)


def _point(link: Path, target: str) -> None:
    """Make or move a symbolic link in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(link)
