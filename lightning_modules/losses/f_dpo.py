"""DPO under other divergences than the reverse KL."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive
from lightning_modules.losses.divergences import Divergence, JensenShannon


@dataclass(frozen=True, kw_only=True)
class FDPOLoss(PreferenceLoss):
    """-logsig(m) with m = beta (u(h_w) - u(h_l)), u(h) = f'(exp h).

    Source: Wang et al., arXiv 2309.16240. `ReverseKL` is DPO.
    Incentives: d_w = beta sig(-m) u'(h_w), d_l = beta sig(-m) u'(h_l), with u'(h) = 1 (reverse KL),
    exp(-h) (forward KL), sig(-h) (JS), exp(-alpha h) (alpha).
    Rewards: beta u(h).

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.1
    """Per unit of u (a nat for the reverse KL), > 0."""
    divergence: Divergence = field(default_factory=JensenShannon)
    """f; a class of `lightning_modules.losses.divergences`."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen_logratios, rejected_logratios = logps.logratios()
        chosen = self.beta * self.divergence.reward(chosen_logratios)
        rejected = self.beta * self.divergence.reward(rejected_logratios)
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
