"""The Bradley-Terry loss of a reward model (paper Eq. 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class BradleyTerry:
    """l = -log sigma(r+ - r- - margin) + centring (r+ + r-)^2.

    Without margin and centring dl/dr+ = -sigma(r- - r+) = -dl/dr-: equal and opposite (paper Sec. 3.4), as DPO's gradients are in
    log pi. The margin term is Llama 2's (arXiv 2307.09288, Eq. 2), centring that of arXiv 2312.09244 (Eisenstein et al.).

    Raises:
        ValueError: if a value is negative.
    """

    margin_per_point: float = 0.0
    """The margin is this times the difference of the pair's judge scores, >= 0; data without scores needs 0."""
    centring: float = 0.0
    """Weight of (r+ + r-)^2, >= 0, which takes away the freedom of adding a constant to all rewards; 0.01 is usual."""

    def __post_init__(self) -> None:
        if not (0 <= self.margin_per_point < math.inf and 0 <= self.centring < math.inf):
            raise ValueError(
                f"expected finite margin_per_point and centring >= 0, got {self.margin_per_point} and {self.centring}. 0 is none."
            )

    def require_scores(self, score_gaps: Sequence[float | None]) -> None:
        """Refuse pairs without the scores that the margin needs, where they are known on the host.

        Args:
            score_gaps: judge's score of chosen minus that of rejected; None where one is missing.

        Raises:
            ValueError: if there are such pairs.
        """
        missing = sum(gap is None for gap in score_gaps)
        if self.margin_per_point and missing:
            raise ValueError(
                f"expected judge scores for the margin of every pair, got {missing} of {len(score_gaps)} pairs without. Set "
                "margin_per_point to 0, or judge the data."
            )

    def __call__(self, chosen: Tensor, rejected: Tensor, score_gaps: Tensor | None = None) -> Tensor:
        """Losses of the pairs.

        Args:
            chosen: `[pairs]` r+, differentiable.
            rejected: `[pairs]` r-.
            score_gaps: `[pairs]` judge's score of chosen minus that of rejected; None where the data has none. NaN gives a loss
                of NaN: to look for it here would make the host wait (`require_scores`).

        Returns:
            `[pairs]` nats.

        Raises:
            ValueError: if the margin needs scores that are missing.
        """
        margins = rejected.new_zeros(())
        if self.margin_per_point:
            if score_gaps is None:
                raise ValueError(
                    "expected judge scores for the margin of every pair, got none. Set margin_per_point to 0, or judge the data."
                )
            margins = self.margin_per_point * score_gaps
        losses = -functional.logsigmoid(chosen - rejected - margins)
        return losses + self.centring * (chosen + rejected).square() if self.centring else losses
