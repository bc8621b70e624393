"""Length-regularised DPO."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import CONTRAST_REMEDIES, PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative, require_positive
from lightning_modules.losses.terms import implicit_rewards


@dataclass(frozen=True, kw_only=True)
class RDPOLoss(PreferenceLoss):
    """-logsig(m) with m = (beta h_w + alpha len_w) - (beta h_l + alpha len_l).

    Source: Park et al., arXiv 2403.19159: the preference is explained by length first, and the policy learns the rest.
    Incentives: d_w = d_l = beta sig(-m).
    Rewards: beta h + alpha len.

    Raises:
        ValueError: if a field is outside its range.
    """

    remedies = CONTRAST_REMEDIES

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    alpha: float = 0.05
    """Reward per token, >= 0; 0.05 to 1. Larger leaves less to learn from pairs whose chosen side is the longer one."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(alpha=self.alpha)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return True

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        chosen = chosen + self.alpha * logps.chosen_lengths.to(chosen.dtype)
        rejected = rejected + self.alpha * logps.rejected_lengths.to(rejected.dtype)
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
