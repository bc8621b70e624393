"""GroupDPO: every better response of a prompt against every worse one, and a likelihood term on the good ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.checks import require_non_negative, require_positive, require_scores
from lightning_modules.losses.completions import Completions


@dataclass(frozen=True, kw_only=True)
class GroupDPOLoss(Loss):
    """mean over i, j with s_i > s_j of -logsig(beta (h_i - h_j)), - gamma mean log pi_i / len_i over those above the mean score.

    s are the judge's scores of a prompt's completions; equal ones are not compared. One with a score alone counts for nothing.

    Source: Leng et al., arXiv 2604.15602.
    Differs from the source: its text was not at hand. That all responses are contrasted and that good ones have a likelihood term
    is its abstract's. By what others note of it, it parts responses into good and bad by reward and contrasts each good one with
    each bad one, with gamma 0 or 1; pairs by score, their mean and gamma are choices made here.
    Incentives: d_i = beta (sum_{j: s_j < s_i} sig(-m_ij) - sum_{j: s_j > s_i} sig(-m_ji)) / n + gamma 1[good]/(g len_i), with n
    pairs and g good ones.
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    reads = Reads.GROUPS

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    gamma: float = 0.1
    """Weight of the likelihood term, >= 0, per (nat per token)."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(gamma=self.gamma)

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        """See Loss."""
        require_scores(gaps, type(self).__name__)

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Losses of the prompts, `[P]`; rewards of the best and the worst of each."""
        sums, scores = completions.sums, completions.scores()
        rewards = self.beta * sums.log_ratios()
        better = (completions.prompts[:, None] == completions.prompts) & (scores[:, None] > scores)
        losses = torch.where(better, -F.logsigmoid(rewards[:, None] - rewards), 0).sum(1)
        contrast = completions.by_prompt(losses) / completions.by_prompt(better.sum(1).to(losses.dtype)).clamp_min(1)
        chosen, rejected = rewards.detach()[sums.pairs].unbind(1)
        return PreferenceLossOutput(contrast + self.gamma * self._nll(completions, scores), chosen, rejected)

    def _nll(self, completions: Completions, scores: Tensor) -> Tensor:
        """`[P]` mean negative log-likelihood per token of the completions that score above their prompt's mean."""
        scored = scores.isfinite()
        means = completions.by_prompt(torch.where(scored, scores, 0)) / completions.by_prompt(scored.to(scores.dtype)).clamp_min(1)
        good = scores > means[completions.prompts]
        nll = torch.where(good, -completions.sums.policy / completions.sums.lengths, 0)
        return completions.by_prompt(nll) / completions.by_prompt(good.to(nll.dtype)).clamp_min(1)
