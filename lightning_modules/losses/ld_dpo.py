"""LD-DPO: tokens beyond the length of the shorter completion count less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.completions import Completions


@dataclass(frozen=True, kw_only=True)
class LDDPOLoss(Loss):
    """-logsig(beta (h_w' - h_l')), h' the sum of a completion's log-ratios, those beyond the pair's shorter length times alpha.

    Source: Liu et al., arXiv 2409.06411, as TRL's `ld_alpha`.
    Incentives per token: d_t = beta sig(-m), up for chosen and down for rejected; alpha d_t beyond the shorter length.
    Rewards: beta h'.

    Raises:
        ValueError: if a field is outside its range.
    """

    reads = Reads.TOKENS

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    alpha: float = 0.5
    """In [0, 1], no unit. 1 is DPO; 0 leaves the longer completion's tail out."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 <= self.alpha <= 1, "alpha in [0, 1]", self.alpha)

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        ratios = completions.by_completion(self._weights(completions) * completions.token_log_ratios())
        chosen, rejected = (self.beta * ratios[completions.sums.pairs]).unbind(1)
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())

    def _weights(self, completions: Completions) -> Tensor:
        """`[K]`: 1 within the pair's shorter length, alpha beyond."""
        sums, sequence = completions.sums, completions.tokens.sequence
        shorter = sums.lengths[sums.pairs].amin(1, keepdim=True).expand(-1, 2)
        shared = sums.lengths.scatter(0, sums.pairs.flatten(), shorter.flatten())
        places = torch.arange(len(sequence), device=sequence.device) - (sums.lengths.cumsum(0) - sums.lengths)[sequence]
        ones = torch.ones_like(completions.tokens.policy)
        return torch.where(places < shared[sequence], ones, self.alpha * ones)
