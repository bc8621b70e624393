"""Contrastive preference optimization: DPO with a uniform reference, plus a likelihood term."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative, require_positive
from lightning_modules.losses.terms import chosen_nll


@dataclass(frozen=True, kw_only=True)
class CPOLoss(PreferenceLoss):
    """-logsig(beta D) - weight log pi+ with D = log pi+ - log pi-; the last term over len_w with `per_token`.

    Source: Xu et al., arXiv 2401.08417.
    Differs from TRL, which averages the likelihood term over all chosen tokens of the batch: `per_token` does so pair by pair.
    Incentives: d_w = beta sig(-beta D) + weight (weight / len_w with `per_token`), d_l = beta sig(-beta D).
    Rewards: beta log pi.

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_reference = False

    beta: float = 0.1
    """Per nat, > 0. A larger beta stops pushing after fewer nats of margin."""
    weight: float = 1.0
    """lambda, >= 0, no unit. Weight of the likelihood term."""
    per_token: bool = False
    """Divide the likelihood term by the chosen length."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(weight=self.weight)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return True

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = self.beta * logps.policy_chosen, self.beta * logps.policy_rejected
        losses = -F.logsigmoid(chosen - rejected) + self.weight * chosen_nll(logps, self.per_token)
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
