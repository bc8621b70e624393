"""The hinge on DPO's margin, which several libraries call SLiC."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_modules.losses.base import CONTRAST_REMEDIES, PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class HingeLoss(PreferenceLoss):
    """max(0, 1 - beta (h_w - h_l)).

    Source: Liu et al., arXiv 2309.06657 (the hinge form of RSO).
    Incentives: d_w = d_l = beta 1[m < 1].
    Rewards: beta h.

    Raises:
        ValueError: if beta is not > 0.
    """

    remedies = CONTRAST_REMEDIES

    beta: float = 0.1
    """Per nat, > 0. A pair gets no gradient once its log-ratios are 1 / beta nats apart."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        return PreferenceLossOutput(torch.relu(1 - (chosen - rejected)), chosen.detach(), rejected.detach())
