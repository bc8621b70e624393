"""Alignment via optimal transport on pairs: margins over a batch are to dominate the reference's, as distributions."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require, require_positive
from lightning_modules.losses.terms import implicit_rewards, ranks_in, smoothed_logistic


@dataclass(frozen=True, kw_only=True)
class AOTLoss(PreferenceLoss):
    """f(beta (D - D0')), D = log pi+ - log pi-, D0' of the same rank among the reference's D0 over the optimizer step; f as in DPO.

    Source: Melnyk et al., arXiv 2406.05882 (AOT paired, the logistic form), as TRL's `aot`.
    Incentives: d_w = d_l = beta (sig(-m) - e), m = beta (D - D0').
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    needs_step = True

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    label_smoothing: float = 0.0
    """e, share of labels expected to be flipped, in [0, 0.5)."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require(0 <= self.label_smoothing < 0.5, "label_smoothing in [0, 0.5)", self.label_smoothing)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        whole, first = logps.whole_step()
        reference_chosen, reference_rejected = whole.reference()
        own = logps.policy_chosen - logps.policy_rejected
        ranks = ranks_in(whole.policy_chosen - whole.policy_rejected, first, len(own))
        partners = (reference_chosen - reference_rejected).sort().values[ranks]
        losses = smoothed_logistic(self.beta * (own - partners), self.label_smoothing)
        chosen, rejected = implicit_rewards(logps, self.beta)
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
