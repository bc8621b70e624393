"""TDPO1: DPO with the KL of each completion's tokens in its margin."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.completions import Completions


@dataclass(frozen=True, kw_only=True)
class TDPO1Loss(Loss):
    """-logsig(beta (h_w + D_w - h_l - D_l)), D = sum_t KL(pi0 || pi) of the distributions at a completion's tokens.

    The gradient goes through both D: it pulls the whole distribution along chosen away from the reference's and that along
    rejected to it.

    Source: Zeng et al., arXiv 2404.11999, Eq. 16, and its authors' code.
    Incentives per token: d_t = beta sig(-m) of log pi, up for chosen and down for rejected; beside it beta sig(-m) of the KL.
    Rewards: beta (h + D).

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_distribution = True
    reads = Reads.TOKENS

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        ratios = completions.sums.log_ratios()[completions.sums.pairs]
        kl = self.weighed(completions.sequence_kl()[completions.sums.pairs])
        chosen, rejected = (self.beta * (ratios + kl)).unbind(1)
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())

    def weighed(self, kl: Tensor) -> Tensor:
        """`[pairs, 2]` what the KL of both sides adds to their log-ratios, nats."""
        return kl
