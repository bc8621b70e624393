"""Anchored preference optimization, both sides down."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class APODownLoss(PreferenceLoss):
    """sig(r_w) + 1 - sig(r_w - r_l) with r = beta h: the chosen down, the rejected further down.

    For chosen completions worse than what the policy writes.

    Source: D'Oosterlinck et al., arXiv 2408.06266, Eq. 8.
    Incentives: d_w = beta (s'(r_w - r_l) - s'(r_w)), d_l = beta s'(r_w - r_l), s' = sig (1 - sig).
    Rewards: beta h.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.1
    """Per nat, > 0. Larger saturates after fewer nats."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        losses = torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen)
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
