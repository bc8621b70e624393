"""DPO-Shift: the rejected log-ratio counts less, by a factor that may change over training."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class DPOShiftLoss(PreferenceLoss):
    """-logsig(m) with m = beta (h_w - shift h_l).

    `callbacks.control.loss_schedule.LossSchedule` changes `shift` over training, as in the source: a line from 0.5 to 1 or back.

    Source: Yang et al., arXiv 2502.07599.
    Incentives: d_w = beta sig(-m), d_l = shift beta sig(-m).
    Rewards: beta h_w and shift beta h_l.

    Raises:
        ValueError: if a field is outside its range.
    """

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    shift: float = 0.95
    """f in (0, 1], no unit. 1 is DPO; the smaller, the less rejected is pushed for the same pull on chosen."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 < self.shift <= 1, "shift in (0, 1]", self.shift)

    @property
    def is_logistic(self) -> bool:
        """See Loss."""
        return True

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        rejected = self.shift * rejected
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
