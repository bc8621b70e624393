"""The cadence, averaging and writing that all diagnostics share; a diagnostic adds the maths and a name."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from datamodules.batches import CompletionBatch
from lightning_modules.means import CountedMeans
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats


class ProbedModule(Protocol):
    """What probe monitors need of a module."""

    def probe_evaluation(self) -> list[tuple[CompletionBatch, TokenStats]]:
        """The frozen probe bank under the policy as it is now; evaluated once per step however many ask."""


class Diagnostic(Callback):
    """Measures whole optimizer steps at a cadence; writes means to every logger and rows to `<run>/diagnostics/<name>.jsonl`.

    On a due step `measure` sees each of its microbatches, after backward; the values are averaged over all microbatches and
    ranks by count. Nothing runs on other steps, and nothing needs a further forward pass.

    Args:
        every_n_steps: cadence in optimizer steps, >= 1. Step 1 is always measured.
    """

    name: str
    """File name of the rows, and what the metrics are about."""

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"expected every_n_steps >= 1, got {every_n_steps}. Leave the callback out to switch it off.")
        self.every_n_steps = every_n_steps
        self._means = CountedMeans()

    @abstractmethod
    def measure(self, output: StepOutput, batch: CompletionBatch) -> dict[str, Tensor]:
        """`{metric: [n] per-item values}` of one microbatch, detached. Every rank must return the same names."""

    def after_step(self, trainer: Trainer, pl_module: LightningModule, means: dict[str, float]) -> None:
        """Called on a due step when its last microbatch has been measured and `means` written; for histograms and images."""

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
        self._means.update(self.measure(cast(StepOutput, outputs["step"]), batch))
        if completes:
            means = self._means.compute()
            self._means.reset()
            self.write(trainer, means)
            self.after_step(trainer, pl_module, means)

    def write(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Write scalars of the current step to every logger and one row to the run folder (rank 0 only)."""
        if not trainer.is_global_zero or not values:
            return
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=trainer.global_step)
        self.write_row(trainer, self.name, {"step": trainer.global_step, **values})

    def write_row(self, trainer: Trainer, name: str, row: Mapping[str, Any]) -> None:
        """Append one JSON line to `<run>/diagnostics/<name>.jsonl` (rank 0 only; nowhere without a run folder)."""
        if trainer.is_global_zero and trainer.log_dir is not None:
            path = Path(trainer.log_dir) / "diagnostics" / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")

    def tensorboard(self, trainer: Trainer) -> SummaryWriter | None:
        """The TensorBoard writer of this rank; None where there is none."""
        if not trainer.is_global_zero:
            return None
        writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        return cast(SummaryWriter, writers[0]) if writers else None
