"""Bounded DPO: the rejected likelihood is read through a mixture with the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive


@dataclass(frozen=True, kw_only=True)
class BDPOLoss(PreferenceLoss):
    """-logsig(m) with m = beta (h_w - log(mixture exp(h_l) + 1 - mixture)).

    Source: Cho et al., arXiv 2506.12725 (lambda there): pi_mix = lambda pi- + (1 - lambda) pi0-, so that
    suppressing pi- gains at most
    -log(1 - lambda) nats.
    Incentives: d_w = beta sig(-m), d_l = beta sig(-m) sig(h_l + logit mixture).
    Rewards: beta h_w and beta log(pi_mix / pi0-).

    Raises:
        ValueError: if a field is outside its range.
    """

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    mixture: float = 0.5
    """lambda in (0, 1), no unit. Share of the policy; nearer 1 is nearer DPO, nearer 0 bounds the rejected side's gain tighter."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 < self.mixture < 1, "mixture in (0, 1)", self.mixture)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen_logratios, rejected_logratios = logps.logratios()
        chosen, rejected = self.beta * chosen_logratios, self.beta * self._mixed(rejected_logratios)
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())

    def _mixed(self, logratios: Tensor) -> Tensor:
        floor = logratios.new_full((), math.log1p(-self.mixture))
        return torch.logaddexp(logratios + math.log(self.mixture), floor)
