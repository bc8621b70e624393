"""Noise contrastive alignment on pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class NCALoss(PreferenceLoss):
    """-logsig(r_w) - 0.5 logsig(-r_w) - 0.5 logsig(-r_l) with r = beta h.

    Source: Chen et al., arXiv 2402.05369 (pairwise form).
    Incentives: d_w = beta (sig(-r_w) - 0.5 sig(r_w)), d_l = 0.5 beta sig(r_l): the chosen side is drawn to r_w = log 2.
    Rewards: beta h.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.01
    """Per nat, > 0. Small, since the target r_w = log 2 lies log 2 / beta nats above the reference."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        losses = -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
