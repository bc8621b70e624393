"""Binary classifier optimization of single completions, labelled good or bad."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.completions import Completions, Sums


@dataclass(frozen=True, kw_only=True)
class UnpairedBCOLoss(Loss):
    """-logsig(r - s) of a good completion, -logsig(s - r) of a bad one, r = beta h.

    s = (mean r of the good + mean r of the bad)/2 over the optimizer step, without gradient; where a step has one of the two alone,
    its mean.

    Source: Jung et al., arXiv 2404.04656, Eq. 9 and 10.
    Differs from the source: the reward shift s is that of the step, there a running mean over steps. Its density-ratio weights for
    good and bad prompts of different kinds are not offered.
    Incentives: d = beta sig(s - r) up for good, beta sig(r - s) down for bad.
    Rewards: r.

    Raises:
        ValueError: if beta is not > 0.
    """

    needs_step = True
    reads = Reads.COMPLETIONS

    beta: float = 0.01
    """Per nat, > 0. Larger saturates after fewer nats."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Losses of the good completions, then of the bad ones; rewards of each."""
        of_step = [side.mean() for side in self._rewards(completions.whole_step()) if len(side)]
        shift = torch.stack(of_step).mean()
        good, bad = self._rewards(completions.sums)
        losses = torch.cat([-F.logsigmoid(good - shift), -F.logsigmoid(shift - bad)])
        return PreferenceLossOutput(losses, good.detach(), bad.detach())

    def _rewards(self, sums: Sums) -> tuple[Tensor, Tensor]:
        ratios = sums.log_ratios()
        return self.beta * ratios[sums.of_kind("chosen")], self.beta * ratios[sums.of_kind("rejected")]
