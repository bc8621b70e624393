"""The cadence, averaging and writing that all diagnostics share; a diagnostic adds the maths and a name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from callbacks.readings import Readings, Values
from datamodules.batches import CompletionBatch
from lightning_modules.step_output import StepOutput
from run_folder.files import append_row, tensorboard_writer


@runtime_checkable
class ReadingListener(Protocol):
    """A callback that wants to know what the diagnostics read."""

    def hear(self, readings: Mapping[str, float]) -> None:
        """Take readings of the current step; called on every rank, with the same numbers."""


class Diagnostic(Callback):
    """Measures whole optimizer steps at a cadence; writes means to every logger and rows to `<run>/diagnostics/<name>.jsonl`.

    On a due step `measure` sees each of its microbatches, after backward; the values are averaged over all microbatches and
    ranks by count, in one transfer from the device. Nothing runs on other steps, and nothing needs a further forward pass.
    What is measured at step n is the policy that step n started from.

    Args:
        every_n_steps: cadence in optimizer steps, >= 1. Step 1 is always measured.
    """

    name: str
    """File name of the rows, and what the metrics are about."""

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"expected every_n_steps >= 1, got {every_n_steps}. Leave the callback out to switch it off.")
        self.every_n_steps = every_n_steps
        self._readings = Readings(self.keeps)

    @abstractmethod
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        """`{metric: [n] per-item values}` of one microbatch, detached."""

    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> Iterable[Values]:
        """Further values of a due step, of the policy after it; none by default. A value that all ranks have is given by one."""
        return ()

    def finish(self, means: dict[str, float]) -> dict[str, float]:
        """What is written, from the means over microbatches and ranks; ratios of means belong here."""
        return means

    def keeps(self, name: str) -> bool:
        """Whether the spread of a metric is wanted: quantiles in the rows, and values for `draw`."""
        return False

    def draw(self, writer: SummaryWriter, step: int, kept: Mapping[str, Tensor]) -> None:
        """Histograms of the kept per-item values; called on a due step on the rank that has a TensorBoard writer."""

    def after_step(self, trainer: Trainer, pl_module: LightningModule, means: dict[str, float]) -> None:
        """Called on a due step when its last microbatch has been measured and `means` written."""

    def is_due(self, step: int) -> bool:
        """Whether optimizer step `step` (1-based) is measured."""
        return step == 1 or step % self.every_n_steps == 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: CompletionBatch, batch_idx: int
    ) -> None:
        completes = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        # global_step has been advanced already when the microbatch completed its step.
        step = trainer.global_step + (0 if completes else 1)
        if not self.is_due(step):
            return
        if not batch.share.idle:
            self.read([self.measure(cast(StepOutput, outputs["step"]), batch)])
        if completes:
            self.read(self.measure_policy(trainer, pl_module))
            self.after_step(trainer, pl_module, self.flush(trainer))

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
        writer = self.tensorboard(trainer)
        if writer is not None and reading.kept:
            self.draw(writer, trainer.global_step, reading.kept)
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

    def tensorboard(self, trainer: Trainer) -> SummaryWriter | None:
        """The TensorBoard writer of this rank; None where there is none."""
        return tensorboard_writer(trainer)
