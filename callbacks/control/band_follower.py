"""The base of callbacks that let a number of the loss follow the middle of the disentanglement band."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.base import BatchDiagnostic
from callbacks.mathematics.head_geometry import MAX_COLUMNS, HeadReader, PairGeometry
from callbacks.readings import Counted, Values
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasLoss, HasPolicy
from lightning_modules.losses.base import Loss
from lightning_modules.step_output import StepOutput

LossT = TypeVar("LossT", bound=Loss)


def followed(log_value: float, log_target: float, decay: float) -> float:
    """The next logarithm: decay * log_value + (1 - decay) * log_target, an exponential mean in the log domain.

    Args:
        log_value: log of the mean so far.
        log_target: mean over the step's pairs of the log of what centres each pair's band.
        decay: in [0, 1).
    """
    return decay * log_value + (1 - decay) * log_target


class BandFollower(BatchDiagnostic[StepOutput], Generic[LossT]):
    """Sets one number of the loss after every due step to an exponential mean, in the log domain, of what centres the band.

    s_w and s_l are the output layer's gradients of log pi+ and log pi-. A step moves chosen up and rejected down iff
    rho r* < d_w / d_l < r* / rho with r* = ||s_l|| / ||s_w|| and rho their cosine (arXiv 2604.18239); its geometric middle is
    d_w / d_l = r*. Read in the training pass itself. A resumed run goes on to the same bits.

    Args:
        decay: of the exponential mean over due steps, in [0, 1).
        lowest: the number is at least this, > 0.
        highest: and at most this, >= lowest.
        every_n_steps: cadence in optimizer steps.

    Raises:
        ValueError: if decay is out of range, or, when a fit starts, if the loss is not of `loss_class`.
    """

    loss_class: type[LossT]
    """The losses that have the number."""
    field: str
    """The field of the loss that is set."""
    target_name: str
    """Metric of what centres the band: `<name>/<target_name>`."""
    value_name: str
    """Metric of the number that is set: `<name>/<value_name>`."""

    def __init__(self, decay: float, lowest: float, highest: float, every_n_steps: int) -> None:
        super().__init__(every_n_steps)
        if not 0 <= decay < 1:
            raise ValueError(f"expected decay in [0, 1), got {decay}. 0 takes every step's reading as it is.")
        self.decay, self.lowest, self.highest = decay, lowest, highest
        self._log_value: float | None = None
        self._loss: LossT | None = None
        self._reader = HeadReader(MAX_COLUMNS)

    @abstractmethod
    def log_targets(self, geometry: PairGeometry, output: StepOutput, loss: LossT) -> Tensor | None:
        """`[pairs]` log of the number that would centre each pair's band, not finite where there is none; None where no pair has.

        Args:
            geometry: of the microbatch's pairs.
            output: of the microbatch, after backward.
            loss: the loss the step was made with.
        """

    @abstractmethod
    def first(self, loss: LossT) -> float | None:
        """Where the mean starts from; None: with the first reading."""

    @abstractmethod
    def field_value(self, loss: LossT) -> float:
        """What `field` is to be, from `value`."""

    @property
    def value(self) -> float:
        """The number of the next step, in [lowest, highest]."""
        assert self._log_value is not None, "there has been a reading or a start"
        return min(max(math.exp(self._log_value), self.lowest), self.highest)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = getattr(pl_module, "loss", None)
        if not isinstance(loss, self.loss_class):
            wanted, config = self.loss_class.__name__, self.loss_class.__module__.rsplit(".", 1)[1]
            raise ValueError(
                f"expected {wanted}, whose {self.field} {type(self).__name__} sets, got {type(loss).__name__}. "
                f"Set --model.loss configs/model/loss/{config}.yaml."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._log_value is None:
            start = self.first(self._loss_of(pl_module))
            self._log_value = None if start is None else math.log(start)
        self._apply(pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.batch_schedule.is_due(trainer.global_step + 1):
            self._loss = self._loss_of(pl_module)
            self._reader.watch(require(pl_module, HasPolicy).policy)

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        geometry = self._reader.take()
        if geometry is None or self._loss is None:
            return {}
        targets = self.log_targets(geometry, output, self._loss)
        if targets is None:
            return {}
        known = targets.isfinite()
        return {self.target_name: Counted(torch.where(known, targets, 0).sum(), known.sum())}

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        if self.target_name not in means:
            return {}
        target = means[self.target_name]
        self._log_value = target if self._log_value is None else followed(self._log_value, target, self.decay)
        return {f"{self.name}/{self.target_name}": math.exp(target), f"{self.name}/{self.value_name}": self.value}

    @override
    def end_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().end_step(trainer, pl_module)
        self._apply(pl_module)

    def _apply(self, module: LightningModule) -> None:
        if self._log_value is not None:
            loss = self._loss_of(module)
            # Losses are immutable: the module gets another one.
            require(module, HasLoss).loss = replace(loss, **{self.field: self.field_value(loss)})  # type: ignore[type-var]

    def _loss_of(self, module: LightningModule) -> LossT:
        loss = require(module, HasLoss).loss
        assert isinstance(loss, self.loss_class), "on_fit_start refuses others"
        return loss

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"log_value": self._log_value}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._log_value = state_dict["log_value"]
