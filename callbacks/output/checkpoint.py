"""Checkpoints to resume from: every n optimizer steps, and always the state after the last one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from typing_extensions import override

from callbacks.output.checkpoint_file import WholeFileIO
from datamodules.ranges import require_at_least


class RunCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint of a run, and `last.ckpt` as a link to it.

    A run that was killed goes on from there with `--ckpt_path`, in a new run folder, to the same bits as one that was not.
    Differs from Lightning's ModelCheckpoint: `last.ckpt` is whole whenever the process dies, the step that ends the training is
    saved whatever the cadence, and a run resumed into another folder keeps its own list of files, without a warning.

    Args:
        every_n_train_steps: cadence in optimizer steps, >= 1. A checkpoint holds weights and optimizer state: for AdamW in
            float32 12 bytes a parameter (with the exported policy a run's folder has 16), and what the monitors compare with.
        keep_all: keep every checkpoint and not only the newest.

    Raises:
        ValueError: when a command starts, if checkpoints are written asynchronously.
    """

    def __init__(self, every_n_train_steps: int = 50, keep_all: bool = False) -> None:
        require_at_least(1, every_n_train_steps=every_n_train_steps)
        super().__init__(every_n_train_steps=every_n_train_steps, save_top_k=-1 if keep_all else 1)
        self.newest: str | None = None
        """The checkpoint that was written last."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise ValueError(
                "expected checkpoints that are on the disk when the older one is removed, got AsyncCheckpointIO, which writes "
                "later: a killed run would have none. Leave the plugin out, and raise every_n_train_steps."
            )
        # A plugin that the user chose stays.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning's own hook does the same, but under manual optimization (PPO) not without a warning at every save. The last
        # step here and not in on_train_end, where Lightning counts the epoch as complete even if max_steps cut it short.
        is_final = trainer.should_stop or trainer.global_step == trainer.estimated_stepping_batches
        if is_final or trainer.global_step % self._every_n_train_steps == 0:
            self.save_now(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Save the step that has just been taken, unless it is saved. Call it on every rank, from `on_train_batch_end`."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # What was logged up to here is logged by no resumed run: it has to be on the disk when the checkpoint is.
        for logger in trainer.loggers:
            logger.experiment.flush() if isinstance(logger, TensorBoardLogger) else logger.save()
        super()._save_checkpoint(trainer, filepath)
        self.newest = filepath
        # Now, before the older file goes.
        if trainer.is_global_zero:
            _point(Path(filepath).with_name(f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"), Path(filepath).name)


def _point(link: Path, target: str) -> None:
    """Make or move a symbolic link in one step."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(link)
