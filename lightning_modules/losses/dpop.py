"""DPO-Positive: a penalty inside the margin when the chosen likelihood falls below the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class DPOPLoss(PreferenceLoss):
    """-logsig(m) with m = beta (h_w - h_l - penalty max(0, -h_w)).

    Source: Pal et al., arXiv 2402.13228 (lambda there); defaults as its users' code has them, the paper's are unchecked.
    Incentives: d_w = beta sig(-m) (1 + penalty 1[h_w < 0]), d_l = beta sig(-m).
    Rewards: beta (h_w - penalty max(0, -h_w)) and beta h_l.

    Raises:
        ValueError: if a field is outside its range.
    """

    beta: float = 0.3
    """Per nat, > 0. As in DPO."""
    penalty: float = 50.0
    """lambda, >= 0, no unit. How much harder the chosen side is pulled while it is below the reference."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(penalty=self.penalty)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return True

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen_logratios, rejected_logratios = logps.logratios()
        chosen = self.beta * (chosen_logratios - self.penalty * torch.relu(-chosen_logratios))
        rejected = self.beta * rejected_logratios
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
