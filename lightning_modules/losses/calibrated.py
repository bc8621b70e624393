"""Reward calibration: any preference loss with one side's gradient scaled up by a gain and the other's down by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.dpo import DPOLoss


@dataclass(frozen=True, kw_only=True)
class CalibratedLoss(PreferenceLoss):
    """The loss it holds, its gradient by log pi+ multiplied by k and that by log pi- divided by k, k = gain.

        z_w' = sg(z_w) + k (z_w - sg(z_w)),    z_l' = sg(z_l) + (z_l - sg(z_l)) / k,    z = log pi, sg: without gradient

    Source: arXiv 2604.18239, where k = sqrt(r* / r) with r = d_w / d_l of the loss that is held and r* = ||s_l|| / ||s_w||, the
    middle of the disentanglement band; `callbacks.control.reward_calibration.RewardCalibration` sets it so. Alone it is constant.
    Incentives: d_w k and d_l / k, with d_w and d_l of the loss that is held: their ratio changes, their product does not.
    Rewards: as of the loss that is held; so are the values.

    Raises:
        ValueError: if gain is not > 0.
    """

    loss: PreferenceLoss = field(default_factory=DPOLoss)
    """The loss that is held."""
    gain: float = 1.0
    """k, > 0, no unit. Above 1 chosen is pulled more and rejected pushed less; 1 leaves the loss as it is."""

    def __post_init__(self) -> None:
        require_positive(gain=self.gain)
        # The class attributes are those of the default loss. A frozen dataclass refuses a plain assignment.
        object.__setattr__(self, "needs_reference", self.loss.needs_reference)
        object.__setattr__(self, "needs_step", self.loss.needs_step)

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        """See PreferenceLoss."""
        self.loss.require_score_gaps(gaps)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return self.loss.is_logistic

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = _scaled(logps.policy_chosen, self.gain), _scaled(logps.policy_rejected, 1 / self.gain)
        return self.loss(replace(logps, policy_chosen=chosen, policy_rejected=rejected))


def _scaled(values: Tensor, gain: float) -> Tensor:
    """The same values to the bit, their gradient times `gain`."""
    fixed = values.detach()
    return fixed + gain * (values - fixed)
