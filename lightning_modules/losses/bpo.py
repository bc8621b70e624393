"""Balanced preference optimization: only the side that lags behind gets a gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.convex import ConvexFunction, Hinge
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class BPOLoss(PreferenceLoss):
    """f(min(r_w, -alpha r_l)) with r = beta h and a convex f.

    Source: Sun et al., arXiv 2506.03557; defaults as in its authors' code. Where the two are equal each gets half
    the gradient.
    Incentives: with m the minimum, d_w = -beta f'(m) 1[r_w < -alpha r_l], d_l = -alpha beta f'(m) 1[r_w > -alpha r_l].
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    beta: float = 0.1
    """Per nat, > 0. Scales the margin that f sees."""
    alpha: float = 0.3
    """Gap adaptor in (0, 1], no unit. The rejected side has to fall 1 / alpha times as far as the chosen one rises."""
    function: ConvexFunction = field(default_factory=Hinge)
    """f; a class of `lightning_modules.losses.convex`."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 < self.alpha <= 1, "alpha in (0, 1]", self.alpha)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        losses = self.function(torch.minimum(chosen, -self.alpha * rejected))
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
