"""Binary classifier optimization on pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class BCOLoss(PreferenceLoss):
    """-logsig(r_w) - logsig(-r_l) with r = beta h: each side classified on its own.

    Source: Jung et al., arXiv 2404.04656.
    Differs from the source: no running reward shift, as in the pairwise form that TRL computes.
    Incentives: d_w = beta sig(-r_w), d_l = beta sig(r_l).
    Rewards: beta h.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.01
    """Per nat, > 0. Larger saturates each side after fewer nats."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        return PreferenceLossOutput(-F.logsigmoid(chosen) - F.logsigmoid(-rejected), chosen.detach(), rejected.detach())
