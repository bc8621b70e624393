"""The callback behind `diagnose.py`: keeps its page up to date, and follows checkpoints that another trainer writes."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.diagnostics.checkpoints.static_diagnosis import StaticDiagnosis
from datamodules.contracts.stores import require
from diagnosis.trainer_log import write_trainer_log
from diagnosis.watch import Watch, is_input_closed
from lightning_modules.contracts import HasCheckpoints
from lightning_modules.models.files.checkpoint_folders import step_numbers
from lightning_modules.models.policy import PolicySpec
from lightning_modules.models.specs import PretrainedPolicy
from reports.page import report_page
from reports.runs import load_run
from run_folder.files import flush_loggers, run_folder
from run_folder.program import spelled


class CheckpointVerdict(StaticDiagnosis):
    """See StaticDiagnosis. Writes the page instead of printing a table.

    Args:
        monitors: callbacks as a training has them.
        output: the page.
        follow: folders to watch for further checkpoints; null reads those that are there.
        until_idle: seconds without a new checkpoint after which it ends; null waits for Ctrl-C.
        until_closed: end when the standard input closes too, as it does when the process that opened it ends.
    """

    def __init__(
        self,
        monitors: list[Callback],
        output: str,
        follow: list[str] | None = None,
        until_idle: float | None = None,
        until_closed: bool = False,
    ) -> None:
        super().__init__(monitors)
        self.output = Path(output)
        self.follow = follow
        self._last = ""
        self.until_idle = math.inf if until_idle is None else until_idle
        self.until_closed = until_closed

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for alarm in self.alarms(trainer):
            # Those of checkpoints that stand are told in the verdict.
            alarm.is_silent = self.follow is None

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in setup, where no policy is built yet.
        self._last = _saved(list(require(pl_module, HasCheckpoints).series.values())[-1]).path
        super().on_validation_epoch_start(trainer, pl_module)

    @override
    def on_checkpoint_read(self, trainer: Trainer) -> None:
        if self.follow is not None:
            self._write_page(trainer)

    @override
    def conclude(self, trainer: Trainer) -> None:
        self._write_page(trainer)

    @override
    def read_later(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.follow is None:
            return
        series = require(pl_module, HasCheckpoints).series
        read = {step: _saved(spec).path for step, spec in series.items()}
        recipe = _saved(list(series.values())[-1])
        is_over = is_input_closed if self.until_closed else None
        watch = Watch(self.follow, until_idle=self.until_idle, seen=list(read.values()), is_over=is_over)
        self._console.print(f"Read {len(read)} so far; waiting for the next checkpoint. Ctrl-C ends it.", soft_wrap=True)
        with _interruptible(), suppress(KeyboardInterrupt):
            for path in watch.later():
                step = step_numbers([*read.values(), path])[-1]
                if step <= max(read):
                    self._console.print(f"{path} is left out: it comes after step {max(read)}, which was read.", soft_wrap=True)
                    continue
                self._last = path
                try:
                    self.read_checkpoint(trainer, pl_module, step, replace(recipe, path=path))
                # Trainers remove old checkpoints.
                except (OSError, ValueError) as error:
                    self._console.print(f"{path} could not be read: {error}", soft_wrap=True)
                    continue
                read[step] = path
                self._console.print(f"Read step {step}: {path}", soft_wrap=True, highlight=False)

    def _write_page(self, trainer: Trainer) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero or folder is None:
            return
        write_trainer_log(folder, self._last)
        flush_loggers(trainer)
        try:
            page = report_page([load_run(folder)])
        # Whatever is wrong with a picture, the readings stand, and further checkpoints are to be read.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            hint = spelled(f"python report.py {folder}")
            self._console.print(f"No page was written ({reason}). To try again: {hint}", soft_wrap=True)
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        partial = self.output.with_name(f".{self.output.name}.{os.getpid()}")
        partial.write_text(page, encoding="utf-8")
        # Whoever has it open sees the old page or the new one.
        partial.replace(self.output)


def _saved(spec: PolicySpec) -> PretrainedPolicy:
    if not isinstance(spec, PretrainedPolicy):
        raise ValueError(f"expected checkpoints that are saved in folders, got {type(spec).__name__}. Use PretrainedPolicy.")
    return spec


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end what is inside by KeyboardInterrupt: nothing is trained here that would have to be saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    originals = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in originals.items():
            signal.signal(number, handler)
