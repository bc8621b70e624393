"""Kahneman-Tversky optimization on pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class KTOLoss(PreferenceLoss):
    """w+ (1 - sig(beta (h_w - z_w))) + w- (1 - sig(beta (z_l - h_l))), with the weights w+ and w-.

    z_w = max(0, mean h_l) and z_l = max(0, mean h_w) over the pairs of the optimizer step, without gradient.

    Source: Ethayarajh et al., arXiv 2402.01306.
    Differs from the source: its reference point is a KL estimated on mismatched prompts and completions, which pair data
    does not hold; as in the `kto_pair` of earlier TRL versions each side reads the other side's mean instead. With the KL:
    `unpaired_kto.UnpairedKTOLoss`.
    Incentives: d_w = w+ beta s'(beta (h_w - z_w)), d_l = w- beta s'(beta (z_l - h_l)), s' = sig (1 - sig).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_step = True

    beta: float = 0.1
    """Per nat, > 0. Larger saturates the value function after fewer nats."""
    desirable_weight: float = 1.0
    """w+, >= 0, no unit. Weight of the chosen side."""
    undesirable_weight: float = 1.0
    """w-, >= 0, no unit. Weight of the rejected side."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = logps.logratios()
        whole_chosen, whole_rejected = logps.whole_step().pairs.logratios()
        # 1 - sig(x) = sig(-x), which keeps its digits when x is large.
        chosen_losses = torch.sigmoid(-self.beta * (chosen - whole_rejected.mean().clamp_min(0)))
        rejected_losses = torch.sigmoid(-self.beta * (whole_chosen.mean().clamp_min(0) - rejected))
        losses = self.desirable_weight * chosen_losses + self.undesirable_weight * rejected_losses
        return PreferenceLossOutput(losses, self.beta * chosen.detach(), self.beta * rejected.detach())
