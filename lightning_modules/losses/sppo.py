"""Self-play preference optimization with hard labels."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class SPPOLoss(PreferenceLoss):
    """(h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2: SPPO-hard, win probabilities 1 and 0.

    Source: Wu et al., arXiv 2405.00675, Eq. 4.7; the hard form as in TRL.
    Incentives: d_w = 2 (1 / (2 beta) - h_w), d_l = 2 (h_l + 1 / (2 beta)).
    Rewards: beta h, drawn to 1/2 and -1/2.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.001
    """Per nat, > 0. The targets lie 1 / (2 beta) nats either side of the reference, out of reach by intent."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = logps.logratios()
        target = 1 / (2 * self.beta)
        losses = (chosen - target).square() + (rejected + target).square()
        return PreferenceLossOutput(losses, self.beta * chosen.detach(), self.beta * rejected.detach())
