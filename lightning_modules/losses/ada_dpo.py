"""AdaDPO: the chosen side's strength follows the ratio of the two likelihoods, to undo the paper's Corollary 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import mean_logps


@dataclass(frozen=True, kw_only=True)
class AdaDPOLoss(PreferenceLoss):
    """-logsig(m) with m = beta (c h_w - h_l), c = min(p_w / p_l, C) without gradient, p = exp(log pi / len), C = max_ratio.

    Where c is not clipped and the completions are one token long, |dl/dpi+| = |dl/dpi-|: in DPO their ratio is pi- / pi+.

    Source: Chen et al., arXiv 2605.28440: the coefficient beta p_w / p_l of the chosen side alone, averages per token, C = 2.
    Differs from the source: its text was not at hand; coefficient, averages and a "clipping ceiling" are from its abstract and a
    summary of it, which say nothing of a floor.
    Incentives: d_w = c beta sig(-m), d_l = beta sig(-m).
    Rewards: c beta h_w and beta h_l.

    Raises:
        ValueError: if a field is outside its range.
    """

    beta: float = 0.1
    """Per nat, > 0; 0.005 to 0.1. As in DPO."""
    max_ratio: float = 2.0
    """C, >= 1, no unit. 1 is never above DPO's pull; 1.5 to 2.5 are said to do alike."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(1 <= self.max_ratio < math.inf, "finite max_ratio >= 1", self.max_ratio)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return True

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen_logratios, rejected_logratios = logps.logratios()
        mean_chosen, mean_rejected = mean_logps(logps)
        bound = math.log(self.max_ratio)
        # Clipped in log space: the ratio of two averages of -1e4 and 0 nats would overflow.
        ratios = (mean_chosen - mean_rejected).detach().clamp(max=bound).exp()
        chosen, rejected = self.beta * ratios * chosen_logratios, self.beta * rejected_logratios
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
