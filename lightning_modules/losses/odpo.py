"""DPO with an offset that grows with the judge's preference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_modules.losses.base import CONTRAST_REMEDIES, PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative, require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class ODPOLoss(PreferenceLoss):
    """-logsig(m - alpha log(score_w - score_l)) with m = beta (h_w - h_l).

    Source: Amini et al., arXiv 2402.10571 (logarithmic scaling).
    Incentives: d_w = d_l = beta sig(-(m - offset)).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range; when called without judge scores. Pairs whose chosen side is not scored
            higher have a loss of NaN, and `require_score_gaps` refuses them.
    """

    remedies = CONTRAST_REMEDIES

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    alpha: float = 1.0
    """Scale of the offset, >= 0, no unit. 0 is DPO; a gap below 1 in the judge's scale makes the offset negative."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(alpha=self.alpha)

    @override
    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        # Written as "not greater" so that a NaN score is refused too.
        bad = sum(gap is None or not gap > 0 for gap in gaps)
        if bad:
            raise ValueError(
                f"expected chosen scores above rejected scores, got {bad} of {len(gaps)} pairs tied, reversed or unscored. "
                "Filter pairs by score when the data is made."
            )

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        offsets = self.alpha * _score_gaps(logps).to(chosen.dtype).log()
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected - offsets), chosen.detach(), rejected.detach())


def _score_gaps(logps: SequenceLogps) -> Tensor:
    """`[pairs]` gaps, NaN where chosen is not scored higher: to look for them here would make the host wait."""
    if logps.chosen_scores is None or logps.rejected_scores is None:
        raise ValueError("expected judge scores for both sides of each pair, got none. Use scored data, or DPOLoss.")
    gaps = logps.chosen_scores - logps.rejected_scores
    return torch.where(gaps > 0, gaps, math.nan)
