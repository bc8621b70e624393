"""Alignment via optimal transport, unpaired: the chosen log-ratios of a batch are to dominate the rejected ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_modules.losses.aot import AOTLoss
from lightning_modules.losses.base import PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.terms import implicit_rewards, ranks_in, smoothed_logistic


@dataclass(frozen=True, kw_only=True)
class AOTUnpairedLoss(AOTLoss):
    """f(m_w)/2 + f(m_l)/2, m_w = beta (h_w - h_l'), m_l = beta (h_w' - h_l); f as in DPO.

    h_l' has the rank among the optimizer step's rejected log-ratios that h_w has among the chosen ones, h_w' that of h_l: which
    chosen and rejected completion make a pair plays no part. Summed over the step each matched couple counts once; each half
    carries the whole gradient of its own side.

    Source: Melnyk et al., arXiv 2406.05882 (AOT unpaired, the logistic form), as TRL's `aot_unpaired`.
    Incentives: d_w = beta (sig(-m_w) - e), d_l = beta (sig(-m_l) - e).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        whole, first = logps.whole_step()
        whole_chosen, whole_rejected = implicit_rewards(whole, self.beta)
        of_chosen = whole_rejected.sort().values[ranks_in(whole_chosen, first, len(chosen))]
        of_rejected = whole_chosen.sort().values[ranks_in(whole_rejected, first, len(chosen))]
        losses = _halved(smoothed_logistic(chosen - of_chosen, self.label_smoothing))
        losses = losses + _halved(smoothed_logistic(of_rejected - rejected, self.label_smoothing))
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())


def _halved(losses: Tensor) -> Tensor:
    """Half the value with the whole gradient."""
    fixed = losses.detach()
    return fixed / 2 + (losses - fixed)
