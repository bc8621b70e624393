"""SimPO: length-normalised log-probs as the reward, a target margin, no reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative, require_positive
from lightning_modules.losses.terms import mean_logps


@dataclass(frozen=True, kw_only=True)
class SimPOLoss(PreferenceLoss):
    """-logsig(u) with u = beta log pi+ / len_w - beta log pi- / len_l - gamma.

    Source: Meng et al., arXiv 2405.14734.
    Incentives: d_w = beta sig(-u) / len_w, d_l = beta sig(-u) / len_l.
    Rewards: beta log pi / len.

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_reference = False

    beta: float = 2.0
    """Per (nat per token), > 0; 2 to 2.5, 10 for stronger base models. Far above DPO's, because it scales averages."""
    gamma: float = 1.0
    """Target margin of the rewards, >= 0; gamma / beta is tuned in 0.1 to 0.8."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(gamma=self.gamma)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        mean_chosen, mean_rejected = mean_logps(logps)
        chosen, rejected = self.beta * mean_chosen, self.beta * mean_rejected
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected - self.gamma), chosen.detach(), rejected.detach())
