"""Flex-DPO's missing rule: beta_rejected follows the centre of the disentanglement band while the policy trains."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from callbacks.base import Diagnostic
from callbacks.head_geometry import MAX_COLUMNS, HeadReader
from callbacks.readings import Counted, Values
from datamodules.batches import CompletionBatch
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.models.policy import Policy
from lightning_modules.step_output import StepOutput

LOG_CENTRE = "adaptive_beta/log_centre"


class FlexModule(Protocol):
    """What the callback needs of a module."""

    policy: Policy
    loss: FlexDPOLoss


def followed(log_ratio: float, log_centre: float, decay: float) -> float:
    """The next log ratio: decay * log_ratio + (1 - decay) * log_centre, an exponential mean in the log domain.

    Args:
        log_ratio: log(beta_rejected / beta_chosen) so far.
        log_centre: mean over the step's pairs of log(||s_w|| / ||s_l||), where the band is centred (paper.md 7, D2.4).
        decay: in [0, 1).
    """
    return decay * log_ratio + (1 - decay) * log_centre


class AdaptiveBeta(Diagnostic):
    """Sets beta_rejected = beta_chosen * ratio of a FlexDPOLoss after every step; ratio follows ||s_w|| / ||s_l||.

    s_w and s_l are the output layer's gradients of log pi+ and log pi-. A step with d_w / d_l = beta_chosen / beta_rejected moves
    chosen up and rejected down iff rho r* < d_w / d_l < r* / rho with r* = ||s_l|| / ||s_w|| (arXiv 2604.18239); the rule stays
    in the geometric middle, d_w / d_l = r*. Read in the training pass itself. Metrics: docs/metrics.md. What it does to a run:
    docs/results/adaptive_beta.

    Args:
        decay: of the exponential mean over steps, in [0, 1); it starts from the loss's own ratio.
        min_ratio: beta_rejected is at least this times beta_chosen, > 0.
        max_ratio: and at most this, >= min_ratio. 1 never pushes the rejected side harder than DPO does.
        every_n_steps: cadence in optimizer steps.

    Raises:
        ValueError: if an argument is out of range, or, when a fit starts, if the loss has no beta_rejected.
    """

    name = "adaptive_beta"

    def __init__(self, decay: float = 0.9, min_ratio: float = 0.1, max_ratio: float = 1.0, every_n_steps: int = 1) -> None:
        super().__init__(every_n_steps)
        if not 0 <= decay < 1 or not 0 < min_ratio <= max_ratio:
            raise ValueError(
                f"expected decay in [0, 1) and 0 < min_ratio <= max_ratio, got {decay}, {min_ratio} and {max_ratio}. "
                "The ratio is beta_rejected / beta_chosen."
            )
        self.decay, self.min_ratio, self.max_ratio = decay, min_ratio, max_ratio
        self._log_ratio: float | None = None
        self._reader = HeadReader(MAX_COLUMNS)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = getattr(pl_module, "loss", None)
        if not isinstance(loss, FlexDPOLoss):
            raise ValueError(
                f"expected FlexDPOLoss, which has a beta_rejected of its own, got {type(loss).__name__}. "
                "Set --model.loss configs/model/loss/flex_dpo.yaml."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(FlexModule, pl_module)
        if self._log_ratio is None:
            self._log_ratio = math.log(module.loss.beta_rejected / module.loss.beta_chosen)
        else:
            self._apply(module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.is_due(trainer.global_step + 1):
            self._reader.watch(cast(FlexModule, pl_module).policy)

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        geometry = self._reader.take()
        if geometry is None:
            return {}
        log_centre = geometry.log_centre()
        # A completion the policy is certain of has no gradient, and no direction.
        known = log_centre.isfinite()
        return {LOG_CENTRE: Counted(torch.where(known, log_centre, 0).sum(), known.sum())}

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        if LOG_CENTRE not in means or self._log_ratio is None:
            return {}
        self._log_ratio = followed(self._log_ratio, means[LOG_CENTRE], self.decay)
        return {"adaptive_beta/centre": math.exp(means[LOG_CENTRE]), "adaptive_beta/ratio": self.ratio}

    @override
    def after_step(self, trainer: Trainer, pl_module: LightningModule, means: dict[str, float]) -> None:
        self._apply(cast(FlexModule, pl_module))

    @property
    def ratio(self) -> float:
        """beta_rejected / beta_chosen of the next step, in [min_ratio, max_ratio]."""
        assert self._log_ratio is not None, "training has started"
        return min(max(math.exp(self._log_ratio), self.min_ratio), self.max_ratio)

    def _apply(self, module: FlexModule) -> None:
        # Losses are immutable: the module gets another one.
        module.loss = replace(module.loss, beta_rejected=self.ratio * module.loss.beta_chosen)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"log_ratio": self._log_ratio}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._log_ratio = state_dict["log_ratio"]
