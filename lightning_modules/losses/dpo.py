"""Direct preference optimization, and its label-smoothed form cDPO."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_modules.losses.base import CONTRAST_REMEDIES, PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import implicit_rewards, smoothed_logistic


@dataclass(frozen=True, kw_only=True)
class DPOLoss(PreferenceLoss):
    """-(1 - e) logsig(m) - e logsig(-m) with m = beta (h_w - h_l); e = 0 is DPO, e > 0 is cDPO.

    Source: Rafailov et al., arXiv 2305.18290, Eq. 7 (Eq. 5 of the 3D-properties paper); cDPO from Mitchell's note on it.
    Incentives: d_w = d_l = beta (sig(-m) - e).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    remedies = CONTRAST_REMEDIES

    beta: float = 0.1
    """Per nat, > 0. Larger keeps the policy nearer the reference: the margin saturates after fewer nats."""
    label_smoothing: float = 0.0
    """e, share of labels expected to be flipped, in [0, 0.5). Above 0 the margin stops at log((1 - e) / e)."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 <= self.label_smoothing < 0.5, "label_smoothing in [0, 0.5)", self.label_smoothing)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return self.label_smoothing == 0

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        losses = smoothed_logistic(chosen - rejected, self.label_smoothing)
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
