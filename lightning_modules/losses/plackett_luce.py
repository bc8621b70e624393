"""Listwise DPO: the likelihood of a prompt's whole ranking under the Plackett-Luce model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.checks import require_positive, require_scores
from lightning_modules.losses.completions import Completions


@dataclass(frozen=True, kw_only=True)
class PlackettLuceLoss(Loss):
    """-sum_i log(e^r_i / sum_{j: s_j <= s_i} e^r_j), r = beta h, s the judge's scores of a prompt's completions.

    With two completions it is DPO. The last place is certain and adds nothing. Completions that score alike share a place: each is
    drawn from all that are no better (Breslow's form of ties).

    Source: Rafailov et al., arXiv 2305.18290, Eq. 20 (App. A.3).
    Incentives: d_i = beta (1 - sum_{k: s_k >= s_i} e^r_i / sum_{j: s_j <= s_k} e^r_j).
    Rewards: r.

    Raises:
        ValueError: if beta is not > 0.
    """

    reads = Reads.GROUPS

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def require_score_gaps(self, gaps: Sequence[float | None]) -> None:
        """See Loss."""
        require_scores(gaps, type(self).__name__)

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Losses of the prompts, `[P]`; rewards of the best and the worst of each."""
        sums, scores = completions.sums, completions.scores()
        rewards = self.beta * sums.log_ratios()
        no_better = (completions.prompts[:, None] == completions.prompts) & (scores <= scores[:, None])
        # Of one without a score nothing is known: its row is empty, and the diagonal keeps the logarithm finite.
        rows = no_better | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        places = torch.where(rows, rewards, -torch.inf).logsumexp(1) - rewards
        losses = completions.by_prompt(torch.where(scores.isfinite(), places, 0))
        chosen, rejected = rewards.detach()[sums.pairs].unbind(1)
        return PreferenceLossOutput(losses, chosen, rejected)
