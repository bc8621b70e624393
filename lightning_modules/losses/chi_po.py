"""chi-PO: DPO with the link of the chi-squared divergence."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.linear_tail import exp_linear_tail


@dataclass(frozen=True, kw_only=True)
class ChiPOLoss(PreferenceLoss):
    """-logsig(clip(m, -2 R, 2 R)), m = beta (phi(h_w) - phi(h_l)), phi(h) = e^h + h, R = max_reward.

    Source: Huang et al., arXiv 2407.13399, Algorithm 1.
    Differs from the source: e^h turns linear beyond h = 60, where it would overflow float32.
    Incentives: d_w = beta sig(-m) (e^h_w + 1), d_l = beta sig(-m) (e^h_l + 1); 0 where the margin is clipped.
    Rewards: beta phi(h).

    Raises:
        ValueError: if a field is not > 0.
    """

    beta: float = 0.05
    """Per nat at h -> -infinity, > 0. At h = 0 twice as strong as DPO's."""
    max_reward: float = 10.0
    """R, > 0: beyond a margin of 2 R, right or wrong, a pair teaches nothing."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta, max_reward=self.max_reward)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = map(self._reward, logps.logratios())
        margins = (chosen - rejected).clamp(-2 * self.max_reward, 2 * self.max_reward)
        return PreferenceLossOutput(-F.logsigmoid(margins), chosen.detach(), rejected.detach())

    def _reward(self, ratios: Tensor) -> Tensor:
        return self.beta * (exp_linear_tail(ratios) + ratios)
