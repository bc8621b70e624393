"""ORPO: supervised likelihood plus an odds-ratio term, no reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative
from lightning_modules.losses.terms import mean_logps


@dataclass(frozen=True, kw_only=True)
class ORPOLoss(PreferenceLoss):
    """-a_w - weight logsig(logit p_w - logit p_l) with a = log pi / len and p = exp(a).

    Source: Hong et al., arXiv 2403.07691, Eq. 4 and 7 (lambda there).
    Incentives: d_w = (1 + weight s / (1 - p_w)) / len_w, d_l = weight s / ((1 - p_l) len_l), s = sig(logit p_l - logit p_w).
    Rewards: weight a, as TRL logs them; the paper defines none.

    Raises:
        ValueError: if weight is negative.
    """

    needs_reference = False

    weight: float = 0.1
    """lambda, >= 0, no unit. Weight of the odds-ratio term; 0 is supervised fine-tuning on the chosen completions."""

    def __post_init__(self) -> None:
        require_non_negative(weight=self.weight)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = mean_logps(logps)
        losses = -chosen - self.weight * F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))
        return PreferenceLossOutput(losses, self.weight * chosen.detach(), self.weight * rejected.detach())


def _log_odds(mean_logps: Tensor) -> Tensor:
    """log(p / (1 - p)) for p = exp(mean_logps)."""
    # At p = 1 the odds are infinite and so is their gradient: one rounding step below 1 nothing more is to be gained.
    below_one = mean_logps.clamp(max=-torch.finfo(mean_logps.dtype).eps)
    return below_one - torch.log(-torch.expm1(below_one))
