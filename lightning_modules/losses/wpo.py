"""WPO: any loss of pairs, times how likely the policy is to write both completions itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_modules.losses.base import Loss, PreferenceLoss, PreferenceLossOutput
from lightning_modules.losses.completions import Completions
from lightning_modules.losses.dpo import DPOLoss


@dataclass(frozen=True, kw_only=True)
class WPOLoss(Loss):
    """w_w w_l l, l of the loss it holds, w = exp(mean_t(log p_t - log sum_v p_v^2)) over a completion's tokens, without gradient.

    sum_v p_v^2 is the mean probability of a token that is drawn: w compares a completion with what the policy would write.

    Source: Zhou et al., arXiv 2406.11827, Eq. 2, as TRL's `use_weighting`.
    Incentives: w_w w_l d_w and w_w w_l d_l, d of the loss that is held.
    Rewards: as of the loss that is held.
    """

    loss: PreferenceLoss = field(default_factory=DPOLoss)
    """The loss that is held."""

    def __post_init__(self) -> None:
        # The class attributes are those of the default loss. A frozen dataclass refuses a plain assignment.
        object.__setattr__(self, "needs_reference", self.loss.needs_reference)
        object.__setattr__(self, "needs_step", self.loss.needs_step)

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        """See Loss."""
        self.loss.require_score_gaps(gaps)

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        tokens = completions.tokens
        surprises = completions.by_completion(tokens.policy.detach() - tokens.sum_sq_probs.log())
        weights = (surprises / completions.sums.lengths).exp()[completions.sums.pairs].prod(1)
        output = self.loss.of(completions)
        return output._replace(losses=weights * output.losses)
