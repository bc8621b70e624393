"""Supervised training on the chosen side, gated by how sure the policy is: SFT by Renyi-2 entropy (DEFT)."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_modules.losses.base import Loss, PreferenceLossOutput, Reads
from lightning_modules.losses.completions import Completions
from lightning_modules.losses.terms import mean_logps
from lightning_modules.losses.token_gates import Renyi2Gate, TokenGate


@dataclass(frozen=True, kw_only=True)
class GatedSFTLoss(Loss):
    """sum_t gate(p_t) over the tokens of the chosen completion; with Renyi2Gate (1 - p_t^a_t) / a_t, a_t = sum_v p_v^2.

    On data of single completions the same gate is `SFTModule`'s `gate`.

    Source: that of the gate.
    Incentives per token: d_t = p_t^a_t up for chosen; 0 for rejected.
    Rewards: log pi, or log pi / len if `per_token`.
    """

    reads = Reads.TOKENS
    needs_reference = False

    gate: TokenGate = field(default_factory=Renyi2Gate)
    """The loss of a token."""
    per_token: bool = False
    """Whether losses are averaged over the tokens of each completion instead of summed."""

    def of(self, completions: Completions) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        logps = completions.pair_sums
        losses = completions.by_completion(self.gate(completions.tokens.policy, completions.tokens.sum_sq_probs))
        losses = losses[completions.sums.pairs[:, 0]]
        chosen, rejected = mean_logps(logps) if self.per_token else (logps.policy_chosen, logps.policy_rejected)
        losses = losses / logps.chosen_lengths if self.per_token else losses
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
