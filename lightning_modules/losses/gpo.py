"""Generalized preference optimization: any convex function of DPO's margin."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.convex import ConvexFunction, Logistic
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class GPOLoss(PreferenceLoss):
    """f(beta (h_w - h_l)) with a convex f.

    Source: Tang et al., arXiv 2402.05749. `Logistic` is DPO, `Hinge` the hinge loss, `Square` is beta^2 times IPO
    with eta = beta / 2.
    Incentives: d_w = d_l = -beta f'(m).
    Rewards: beta h.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.1
    """Per nat, > 0. Scales the margin that f sees."""
    function: ConvexFunction = field(default_factory=Logistic)
    """f; a class of `lightning_modules.losses.convex`."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return isinstance(self.function, Logistic)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        return PreferenceLossOutput(self.function(chosen - rejected), chosen.detach(), rejected.detach())
