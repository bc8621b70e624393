"""Monitor of loss and reward accuracy for each source of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.base import BatchDiagnostic
from callbacks.readings import Readings, Values
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import meets
from lightning_modules.contracts import HasLoss
from lightning_modules.step_output import PairOutput, StepOutput


def by_source(pairs: PairOutput, names: Sequence[str]) -> dict[str, Tensor]:
    """`{<name>/<metric>: [n] values}` of the pairs of each source.

    Args:
        pairs: of a step.
        names: the source of each pair.
    """
    margins = pairs.chosen_rewards - pairs.rejected_rewards
    metrics = {"loss": pairs.losses, "rewards/margins": margins, "rewards/accuracies": (margins > 0).float()}
    members = {name: torch.tensor([given == name for given in names], device=margins.device) for name in dict.fromkeys(names)}
    return {f"{name}/{metric}": values[of] for name, of in members.items() for metric, values in metrics.items()}


class SourceMetrics(BatchDiagnostic[StepOutput]):
    """Metrics of a mixture's sources apart: `source/<name>/...` of training steps, `val/source/<name>/...` of validation.

    Of pairs whose batches name their sources, as `datamodules.mixture.MixtureDataModule` does; where there is one source, the
    training metrics say it all. Of a loss that reads a mean or an order over a step there is no `val/source/<name>/loss`.

    Args:
        every_n_steps: cadence in optimizer steps; validation is always measured.
    """

    name = "source"

    def __init__(self, every_n_steps: int = 10) -> None:
        super().__init__(every_n_steps)
        self._validation = Readings()

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        if output.pairs is None or not any(batch.sources):
            return {}
        names = [batch.sources[sequence] for sequence in batch.pairs[:, 0].tolist()]
        return {f"source/{name}": values for name, values in by_source(output.pairs, names).items()}

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: CompletionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        measured = self.measure(outputs["step"], batch)
        if meets(pl_module, HasLoss) and pl_module.loss.needs_step:
            # The loss of a batch depends on what else is in it.
            measured = {name: values for name, values in measured.items() if not name.endswith("/loss")}
        self._validation.update({f"val/{name}": values for name, values in measured.items()})

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        means = self._validation.take().means
        if not trainer.sanity_checking:
            self.write(trainer, means)
