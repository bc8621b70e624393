"""Kahneman-Tversky optimization of single completions, labelled good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.checks import require_non_negative, require_positive
from lightning_modules.losses.completions import MISMATCHED, Completions


@dataclass(frozen=True, kw_only=True)
class UnpairedKTOLoss(Loss):
    """w+ (1 - sig(beta (h - z))) of a good completion, w- (1 - sig(beta (z - h))) of a bad one.

    z = max(0, mean h) over the mismatched completions of the optimizer step, without gradient: an estimate of the KL to the
    reference from completions that answer other prompts (UnpairedDataModule). A step without them is refused; where completions are
    looked at outside a step (the heat map of the probe bank) z is that of the last one.

    Source: Ethayarajh et al., arXiv 2402.01306, Eq. 7 and 8, as TRL's KTOTrainer.
    Incentives: d = w+ beta s'(beta (h - z)) up for good, w- beta s'(beta (z - h)) down for bad, s' = sig (1 - sig).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_step = True
    reads = Reads.COMPLETIONS

    beta: float = 0.1
    """Per nat, > 0. Larger saturates the value function after fewer nats."""
    desirable_weight: float = 1.0
    """w+, >= 0, no unit. Weight of good completions; with n+ and n- of each, w+ n+ / (w- n-) in [1, 4/3] is advised."""
    undesirable_weight: float = 1.0
    """w-, >= 0, no unit. Weight of bad completions."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(desirable_weight=self.desirable_weight, undesirable_weight=self.undesirable_weight)

    def require_kinds(self, kinds: Sequence[str]) -> None:
        """See Loss."""
        if MISMATCHED not in kinds:
            raise ValueError(
                "expected completions that answer other prompts, on which KTO estimates the KL, got none. Use UnpairedDataModule "
                "with data.mismatched true."
            )

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Losses of the good completions, then of the bad ones; rewards of each."""
        whole = completions.whole_step()
        strays = whole.log_ratios()[whole.of_kind(MISMATCHED)]
        kl = strays.mean().clamp_min(0) if len(strays) else strays.new_zeros(())
        ratios = completions.sums.log_ratios()
        good, bad = (ratios[completions.sums.of_kind(kind)] for kind in ("chosen", "rejected"))
        # 1 - sig(x) = sig(-x), which keeps its digits when x is large.
        losses = [
            self.desirable_weight * torch.sigmoid(-self.beta * (good - kl)),
            self.undesirable_weight * torch.sigmoid(-self.beta * (kl - bad)),
        ]
        return PreferenceLossOutput(torch.cat(losses), self.beta * good.detach(), self.beta * bad.detach())
