"""The two kinds of diagnostics, read off training batches or off the policy, and the averaging and writing that they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.readings import Readings, Values
from callbacks.schedule import Schedule, Scheduled, step_of
from datamodules.contracts.batches import CompletionBatch
from run_folder.files import append_row

OutputT = TypeVar("OutputT")
"""What a training step left for its readers: a StepOutput, or a RewardOutput."""


class ReadingListener(Callback):
    """A callback that wants to know what the diagnostics read."""

    @abstractmethod
    def hear(self, readings: Mapping[str, float]) -> None:
        """Take readings of the current step; called on every rank, with the same numbers."""


class Diagnostic(Callback):
    """Averages values by count over microbatches and ranks, in one transfer from the device; writes them.

    Means go to every logger and, as rows, to `<run>/diagnostics/<name>.jsonl`. A subclass says when values are read.
    """

    name: str
    """File name of the rows, and what the metrics are about."""

    def __init__(self) -> None:
        self._readings = Readings(self.keeps)

    def finish(self, means: dict[str, float]) -> dict[str, float]:
        """What is written, from the means over microbatches and ranks; ratios of means belong here."""
        return means

    def keeps(self, name: str) -> bool:
        """Whether the spread of a metric is wanted: quantiles in the rows, and values for `draw`."""
        return False

    def draw(self, trainer: Trainer, kept: Mapping[str, Tensor]) -> None:
        """Histograms of the kept per-item values (`run_folder.shown`); called on a due step."""

    def read(self, parts: Iterable[Values]) -> None:
        """Add values to what the next `flush` writes."""
        for values in parts:
            self._readings.update(values)

    def flush(self, trainer: Trainer) -> dict[str, float]:
        """Write what has been read since the last time and return the means. Call it on every rank."""
        reading = self._readings.take()
        values = self.finish(reading.means)
        for listener in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(listener, ReadingListener):
                listener.hear(values)
        self.write(trainer, values, reading.quantiles())
        if reading.kept:
            self.draw(trainer, reading.kept)
        return values

    def write(self, trainer: Trainer, values: Mapping[str, float], quantiles: Mapping[str, float] | None = None) -> None:
        """Write scalars of the current step to every logger, and with the quantiles one row to the run folder (rank 0 only)."""
        if not trainer.is_global_zero or not values:
            return
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=trainer.global_step)
        self.write_row(trainer, self.name, {"step": trainer.global_step, **values, **(quantiles or {})})

    def write_row(self, trainer: Trainer, name: str, row: Mapping[str, Any]) -> None:
        """Append one JSON line to `<run>/diagnostics/<name>.jsonl` (see `append_row`)."""
        append_row(trainer, name, row)


class BatchDiagnostic(Diagnostic, Generic[OutputT]):
    """Reads whole optimizer steps off their training batches; nothing runs on other steps, and there is no further forward pass.

    On a due step `measure` sees each of its microbatches, after backward. What is measured at step n is the policy that step n
    started from.

    Args:
        every_n_steps: cadence in optimizer steps, >= 1. Step 1 is always measured.
    """

    reads = "step"
    """What it reads of the outputs of `training_step`."""

    def __init__(self, every_n_steps: int = 10) -> None:
        Diagnostic.__init__(self)
        self.batch_schedule = Schedule(every_n_steps, also_step_1=True)

    @abstractmethod
    def measure(self, output: OutputT, batch: CompletionBatch) -> Values:
        """`{metric: [n] per-item values}` of one microbatch, detached."""

    def end_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called on a due step when its last microbatch has been measured; writes it."""
        self.flush(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: CompletionBatch, batch_idx: int
    ) -> None:
        step, completes = step_of(trainer, batch_idx)
        if not self.batch_schedule.is_due(step):
            return
        if not batch.share.idle:
            self.read([self.measure(outputs[self.reads], batch)])
        if completes:
            self.end_step(trainer, pl_module)


class PolicyDiagnostic(Scheduled, Diagnostic):
    """Reads the policy itself when training starts, at a cadence and when it ends (`Scheduled`).

    Args:
        every_n_steps: cadence in optimizer steps, >= 1.
    """

    def __init__(self, every_n_steps: int) -> None:
        Diagnostic.__init__(self)
        self.schedule = Schedule(every_n_steps)

    @abstractmethod
    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> Iterable[Values]:
        """`{metric: [n] per-item values}` of the policy as it is. A value that all ranks have is given by one."""

    @override
    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.read(self.measure_policy(trainer, pl_module))
        self.flush(trainer)
