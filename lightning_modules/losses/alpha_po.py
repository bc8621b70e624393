"""AlphaPO: SimPO with another shape of the reward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_non_negative, require_positive
from lightning_modules.losses.linear_tail import expm1_linear_tail
from lightning_modules.losses.terms import mean_logps


@dataclass(frozen=True, kw_only=True)
class AlphaPOLoss(PreferenceLoss):
    """-logsig(r_w - r_l - gamma) with r = beta (1 - p^-alpha) / alpha, p = exp(log pi / len); alpha -> 0 is SimPO.

    Source: Gupta et al., arXiv 2501.03884, as TRL's CPOTrainer with `alpha`.
    Incentives: d_w = beta p_w^-alpha sig(-u) / len_w, d_l = beta p_l^-alpha sig(-u) / len_l, u = r_w - r_l - gamma.
    Rewards: r.

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_reference = False

    beta: float = 2.5
    """Per (nat per token) at p = 1, > 0."""
    gamma: float = 0.1
    """Target margin of the rewards, >= 0."""
    alpha: float = 0.25
    """Finite and not 0, no unit. Above 0 the unlikely side weighs more, below 0 less."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(gamma=self.gamma)
        require(math.isfinite(self.alpha) and self.alpha != 0, "a finite alpha other than 0 (there it is simpo)", self.alpha)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = map(self._reward, mean_logps(logps))
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected - self.gamma), chosen.detach(), rejected.detach())

    def _reward(self, means: Tensor) -> Tensor:
        # 1 - p^-alpha = -(e^(-alpha log p) - 1), which keeps its digits near p = 1.
        return -self.beta * expm1_linear_tail(-self.alpha * means) / self.alpha
