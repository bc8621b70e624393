"""Efficient exact optimization on pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class EXOLoss(PreferenceLoss):
    """q log(q / (1 - e)) + (1 - q) log((1 - q) / e) with q = sig(m), m = beta (h_w - h_l): the reverse KL to smoothed labels.

    Source: Ji et al., arXiv 2402.00856, Eq. 16.
    Incentives: d_w = d_l = beta q (1 - q) (log((1 - e) / e) - m). They vanish for pairs far on the wrong side too.
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    label_smoothing: float = 0.001
    """e in (0, 0.5): the margin is drawn to log((1 - e) / e). At 0 the loss would be infinite."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 < self.label_smoothing < 0.5, "label_smoothing in (0, 0.5)", self.label_smoothing)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        margins = chosen - rejected
        correct = torch.sigmoid(margins) * (F.logsigmoid(margins) - math.log1p(-self.label_smoothing))
        flipped = torch.sigmoid(-margins) * (F.logsigmoid(-margins) - math.log(self.label_smoothing))
        return PreferenceLossOutput(correct + flipped, chosen.detach(), rejected.detach())
