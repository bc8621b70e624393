"""Saves the config into the run's folder, and removes the folder of a run that fails before its first step."""

from __future__ import annotations

import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from command_line.loggers import FOLDERS, log_settings
from run_folder.files import run_folder

_UNREAD = re.compile(r"config\.yaml|hparams\.yaml|events\.out\..*|data_\w+\.json")
"""What is written before the first step, and is made again by the next try."""


class SaveRunConfig(SaveConfigCallback):
    """Saves the whole config in the run's own folder, refuses a run that would have none, and removes that of a run without a step.

    Raises:
        ValueError: if the first logger makes no new folder for every run: a second run would meet the first one's files.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._began = time.time()
        self._first_step: int | None = None
        self._has_evaluated = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(trainer.logger, FOLDERS):
            raise ValueError(
                "expected TensorBoardLogger or CSVLogger as the first of trainer.logger, got "
                f"{'none' if trainer.logger is None else type(trainer.logger).__name__}. "
                "They give every run a folder of its own; list other loggers after one of them."
            )
        super().setup(trainer, pl_module, stage)

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Called on one rank, after the file was written. A report says how to run it again.
        folder = run_folder(trainer)
        assert folder is not None, "setup refuses a run without one"
        path = folder / self.config_filename
        log_settings(trainer, yaml.safe_load(path.read_text(encoding="utf-8")))
        path.write_text(f"# python train.py {TrainerFn(stage).value}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step = trainer.global_step

    @override
    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._has_evaluated = self._has_evaluated or not trainer.sanity_checking

    @override
    def on_test_batch_end(self, *_: Any) -> None:
        self._has_evaluated = True

    @override
    def on_predict_batch_end(self, *_: Any) -> None:
        self._has_evaluated = True

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        has_trained = self._first_step is not None and trainer.global_step > self._first_step
        if trainer.is_global_zero and not has_trained and not self._has_evaluated:
            folders = {getattr(logger, "log_dir", None) for logger in trainer.loggers}
            for folder in filter(None, folders):
                # Not what the message sends people to.
                if str(folder) not in str(exception):
                    self._remove_if_unused(Path(folder))

    def _remove_if_unused(self, folder: Path) -> None:
        """Take away the folder of a run that has done nothing, if it has nothing that anybody could read."""
        files = [path for path in folder.rglob("*") if not path.is_dir()]
        # Older files are another run's: a logger with a fixed version meets them.
        if all(_UNREAD.fullmatch(path.name) and path.stat().st_mtime >= self._began for path in files):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()
