"""DiscoPOP: a mixture of logistic and exponential loss that a language model found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class DiscoPOPLoss(PreferenceLoss):
    """-logsig(m) sig(-m / tau) + exp(-m) sig(m / tau) with m = beta (h_w - h_l).

    Source: Lu et al., arXiv 2406.08414, Eq. 5. Not convex: for tau 0.05 pairs with m < 0.07 are drawn to a local minimum
    at m = -0.12.
    Incentives: d_w = d_l = beta (sig(-m) (1 - k) + exp(-m) k - (exp(-m) + logsig(m)) k (1 - k) / tau), k = sig(m / tau).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    tau: float = 0.05
    """Temperature of the blend in (0, 1). Smaller switches more sharply at m = 0; at 1 the exponential would be unbounded."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 < self.tau < 1, "tau in (0, 1)", self.tau)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        margins = chosen - rejected
        blend = margins / self.tau
        logistic = -F.logsigmoid(margins) * torch.sigmoid(-blend)
        # exp(-m) alone overflows where its weight is zero; their product is one exponential.
        exponential = torch.exp(F.logsigmoid(blend) - margins)
        return PreferenceLossOutput(logistic + exponential, chosen.detach(), rejected.detach())
