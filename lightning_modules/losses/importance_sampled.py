"""IS-DAA: any loss of pairs, times the clipped ratio of policy and reference on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative
from lightning_modules.losses.dpo import DPOLoss


@dataclass(frozen=True, kw_only=True)
class ImportanceSampledLoss(PreferenceLoss):
    """w l, l of the loss it holds, w = exp(min(h_w + h_l, 2 epsilon)) without gradient.

    As both likelihoods fall, w falls with them, and the pair teaches less.

    Source: Nguyen et al., arXiv 2506.08681 (IS-DAAs), and its authors' code.
    Incentives: w d_w and w d_l, d of the loss that is held.
    Rewards: as of the loss that is held.

    Raises:
        ValueError: if epsilon is below 0.
    """

    needs_reference = True

    loss: PreferenceLoss = field(default_factory=DPOLoss)
    """The loss that is held."""
    epsilon: float = 0.25
    """Nats a side, >= 0: the weight is at most e^(2 epsilon). 0.25 and 1 are in the authors' code."""

    def __post_init__(self) -> None:
        require_non_negative(epsilon=self.epsilon)
        # The class attribute is that of the default loss. A frozen dataclass refuses a plain assignment.
        object.__setattr__(self, "needs_step", self.loss.needs_step)

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        """See Loss."""
        self.loss.require_score_gaps(gaps)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = logps.logratios()
        weights = (chosen + rejected).detach().clamp(max=2 * self.epsilon).exp()
        output = self.loss(logps)
        return output._replace(losses=weights * output.losses)
