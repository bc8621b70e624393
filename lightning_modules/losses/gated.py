"""Gate-DPO: any loss of pairs, whose push on the rejected side fades where it is unlikely already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.terms import mean_logps


@dataclass(frozen=True, kw_only=True)
class GatedLoss(PreferenceLoss):
    """The loss it holds, its gradient by log pi- multiplied by g = sig(sharpness (p - threshold)), p = exp(log pi- / len_l).

    Source: Mouiche and Bahi, arXiv 2605.02626; gate and estimate p (their "seq", a geometric mean over tokens) as in the authors'
    repository.
    Differs from the source: the paper itself was not read, and sharpness and threshold are choices made here; its other estimate of
    p, a low quantile of the tokens', is not offered.
    Incentives: d_w and g d_l, d of the loss that is held.
    Rewards: as of the loss that is held; so are the values.

    Raises:
        ValueError: if a field is outside its range.
    """

    loss: PreferenceLoss = field(default_factory=DPOLoss)
    """The loss that is held."""
    threshold: float = 0.1
    """tau in [0, 1], a probability: where the gate is half open."""
    sharpness: float = 50.0
    """alpha, > 0, per unit of probability. The gate opens over about 4 / sharpness."""

    def __post_init__(self) -> None:
        require_positive(sharpness=self.sharpness)
        require(0 <= self.threshold <= 1, "threshold in [0, 1]", self.threshold)
        # The class attributes are those of the default loss. A frozen dataclass refuses a plain assignment.
        object.__setattr__(self, "needs_reference", self.loss.needs_reference)
        object.__setattr__(self, "needs_step", self.loss.needs_step)

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        """See Loss."""
        self.loss.require_score_gaps(gaps)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        return self.loss(replace(logps, policy_rejected=self._gated(logps)))

    def _gated(self, logps: SequenceLogps) -> Tensor:
        fixed = logps.policy_rejected.detach()
        probabilities = mean_logps(logps)[1].detach().exp()
        gate = torch.sigmoid(self.sharpness * (probabilities - self.threshold))
        return fixed + gate * (logps.policy_rejected - fixed)
