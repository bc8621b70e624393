"""Anchored preference optimization, zero anchor."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class APOZeroLoss(PreferenceLoss):
    """1 - sig(r_w) + sig(r_l) with r = beta h: chosen up and rejected down, each on its own account.

    For chosen completions better than what the policy writes.

    Source: D'Oosterlinck et al., arXiv 2408.06266, Eq. 7.
    Incentives: d_w = beta s'(r_w), d_l = beta s'(r_l), s' = sig (1 - sig).
    Rewards: beta h.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.1
    """Per nat, > 0. Each side's gradient fades once it is some 4 / beta nats from the reference, in either direction."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        return PreferenceLossOutput(torch.sigmoid(-chosen) + torch.sigmoid(rejected), chosen.detach(), rejected.detach())
