"""Supervised fine-tuning on the chosen completion alone: what preferences are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.terms import chosen_nll


@dataclass(frozen=True, kw_only=True)
class ChosenSFTLoss(PreferenceLoss):
    """-log pi+, or -log pi+ / len_w with `per_token`. The rejected completion is watched and trains nothing.

    Source: the likelihood term of arXiv 2406.07327, Appendix B.2.2, Eq. 7, by itself; on a judge's best of the policy's own
    completions it is rejection-sampling fine-tuning (arXiv 2307.09288, Sec. 3.2.3).
    Differs from TRL's "sft", which averages over all chosen tokens of the batch: `per_token` does so pair by pair.
    Incentives: d_w = 1 (1 / len_w with `per_token`), d_l = 0.
    Rewards: log pi.
    """

    needs_reference = False

    per_token: bool = False
    """Divide by the chosen length, so that long completions do not dominate."""

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        return PreferenceLossOutput(chosen_nll(logps, self.per_token), logps.policy_chosen.detach(), logps.policy_rejected.detach())
