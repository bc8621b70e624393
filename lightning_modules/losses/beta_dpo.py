"""beta-DPO: beta follows the mean margin of the batch, and the pairs whose margin is unusual are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import implicit_rewards, ranks_in

LOWEST_BETA = 1e-3
"""Per nat, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class BetaDPOLoss(PreferenceLoss):
    """-logsig(b (h_w - h_l)) / kept_share of the pairs that are kept, 0 of the others; b = beta (1 + alpha (mean M - mean_margin)).

    M = h_w - h_l; kept are the pairs of the optimizer step whose M is nearest to `mean_margin`, and mean M is theirs. b is at least
    0.001 and carries no gradient. `callbacks.control.batch_beta.BatchBeta` sets `mean_margin` to a running mean over steps.

    Source: Wu et al., arXiv 2407.08639, and its authors' code.
    Differs from the source: the pairs to keep are drawn there with a normal density around the running mean, here the nearest are
    taken; the running mean there has the step's own margins in it already.
    Incentives: d_w = d_l = b sig(-m) / kept_share of a kept pair, m = b (h_w - h_l).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_step = True

    beta: float = 0.1
    """beta_0 per nat, > 0. As in DPO."""
    alpha: float = 0.6
    """Per nat, finite. How strongly beta follows the margins; 0 with kept_share 1 is DPO."""
    kept_share: float = 0.8
    """Share of the step's pairs that are kept, in (0, 1]; at least one is."""
    mean_margin: float = 0.0
    """M_0, nats: the margin at which b is beta."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 < self.kept_share <= 1, "kept_share in (0, 1]", self.kept_share)
        require(math.isfinite(self.alpha), "a finite alpha", self.alpha)
        require(math.isfinite(self.mean_margin), "a finite mean_margin", self.mean_margin)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        whole, first = logps.whole_step()
        whole_chosen, whole_rejected = whole.logratios()
        margins = whole_chosen - whole_rejected
        number = max(1, int(self.kept_share * len(margins)))
        distances = (margins - self.mean_margin).abs()
        nearest = distances.argsort(stable=True)[:number]
        beta = (self.beta * (1 + self.alpha * (margins[nearest].mean() - self.mean_margin))).clamp_min(LOWEST_BETA)
        chosen, rejected = implicit_rewards(logps, self.beta)
        kept = ranks_in(distances, first, len(chosen)) < number
        losses = -F.logsigmoid(beta / self.beta * (chosen - rejected)) * (len(margins) / number)
        return PreferenceLossOutput(torch.where(kept, losses, 0), chosen.detach(), rejected.detach())
