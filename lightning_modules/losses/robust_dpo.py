"""DPO made unbiased under randomly flipped labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import CONTRAST_REMEDIES, PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class RobustDPOLoss(PreferenceLoss):
    """(-(1 - e) logsig(m) + e logsig(-m)) / (1 - 2 e) with m = beta (h_w - h_l).

    Source: Ray Chowdhury et al., arXiv 2403.00409. Its mean over flips with rate e is DPO's loss on clean labels.
    Unbounded below for e > 0: it goes on falling by e / (1 - 2 e) per unit of margin, so that no margin is ever enough.
    Incentives: d_w = d_l = beta ((1 - e) sig(-m) + e sig(m)) / (1 - 2 e).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    remedies = CONTRAST_REMEDIES

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    label_smoothing: float = 0.1
    """e, share of labels flipped at random, in [0, 0.5). Nearer 0.5 the pull is scaled up without bound."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 <= self.label_smoothing < 0.5, "label_smoothing in [0, 0.5)", self.label_smoothing)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        margins, flipped = chosen - rejected, self.label_smoothing
        losses = (-(1 - flipped) * F.logsigmoid(margins) + flipped * F.logsigmoid(-margins)) / (1 - 2 * flipped)
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
