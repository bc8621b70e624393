"""Keeps beta-DPO's running mean of margins, the reference point of each batch's beta."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.base import BatchDiagnostic
from callbacks.readings import Values
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasLoss
from lightning_modules.losses.beta_dpo import BetaDPOLoss
from lightning_modules.step_output import StepOutput


class BatchBeta(BatchDiagnostic[StepOutput]):
    """Sets `mean_margin` of a BetaDPOLoss after every step to the running mean of h_w - h_l over steps, microbatches and ranks.

    The mean starts from the loss's own, as its source starts from 0 (arXiv 2407.08639, with decay 0.9). A resumed run goes on with
    it. Metrics: docs/metrics.md.

    Args:
        decay: of the exponential mean, in [0, 1).

    Raises:
        ValueError: if decay is out of range, or, when a fit starts, if the loss is none of beta-DPO.
    """

    name = "batch_beta"

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__(every_n_steps=1)
        if not 0 <= decay < 1:
            raise ValueError(f"expected decay in [0, 1), got {decay}. 0 takes every step's mean as it is.")
        self.decay = decay
        self._mean: float | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = getattr(pl_module, "loss", None)
        if not isinstance(loss, BetaDPOLoss):
            raise ValueError(
                f"expected BetaDPOLoss, whose mean_margin BatchBeta sets, got {type(loss).__name__}. Set --model.loss beta_dpo."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._mean is None:
            self._mean = _loss_of(pl_module).mean_margin
        self._apply(pl_module)

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        assert output.pairs is not None, "BetaDPOLoss reads pairs"
        chosen, rejected = output.pairs.sequences.detached().logratios()
        return {"margin": chosen - rejected}

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        assert self._mean is not None, "it begins when training starts"
        self._mean = self.decay * self._mean + (1 - self.decay) * means["margin"]
        return {f"{self.name}/margin": means["margin"], f"{self.name}/mean_margin": self._mean}

    @override
    def end_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().end_step(trainer, pl_module)
        self._apply(pl_module)

    def _apply(self, pl_module: LightningModule) -> None:
        assert self._mean is not None, "it begins when training starts"
        # Losses are immutable: the module gets another one.
        require(pl_module, HasLoss).loss = replace(_loss_of(pl_module), mean_margin=self._mean)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._mean = state_dict["mean"]


def _loss_of(pl_module: LightningModule) -> BetaDPOLoss:
    loss = require(pl_module, HasLoss).loss
    assert isinstance(loss, BetaDPOLoss), "on_fit_start refuses others"
    return loss
