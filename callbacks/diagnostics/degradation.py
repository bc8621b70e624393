"""Monitor of the paper's Degradation into response suppression (Property 2): displacement, quadrants, saturation of pairs."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from callbacks.diagnostics.probe_bank import BankBatch, ProbeMonitor
from callbacks.mathematics.pair_tokens import TokenClass, pair_tokens, sums_by_class
from callbacks.mathematics.selection import sums_of_pairs
from callbacks.readings import Counted, Values
from datamodules.contracts.batches import CompletionBatch
from lightning_modules.step_output import PairOutput, StepOutput

Sides = tuple[Tensor, Tensor]
"""`([pairs], [pairs])` log-likelihoods of the chosen and rejected completions, nats."""

SATURATED = 0.01
"""A pair whose weight sigma(-margin) is below this has all but stopped teaching."""

MIN_FALL = 0.01
"""Nats. A likelihood that moved by less has not moved: rounding differs from packing to packing."""


def quadrants(chosen_change: Tensor, rejected_change: Tensor) -> dict[str, Tensor]:
    """Quadrant of (change of chosen, change of rejected) of each pair: `{<quadrant>: [pairs] bool}` (docs/derivations.md 5.1).

    A fall of less than 0.01 nats counts as up. `both_down` is suppression; `chosen_up_rejected_down` is what a preference asks for.

    Args:
        chosen_change: `[pairs]` Delta+ since the reference, nats.
        rejected_change: `[pairs]` Delta-, nats.
    """
    fell = (chosen_change < -MIN_FALL, rejected_change < -MIN_FALL)
    return {
        "both_up": ~fell[0] & ~fell[1],
        "chosen_up_rejected_down": ~fell[0] & fell[1],
        "chosen_down_rejected_up": fell[0] & ~fell[1],
        "both_down": fell[0] & fell[1],
    }


def rankings(now: Sides, before: Sides | None) -> dict[str, Tensor]:
    """Whether the policy itself ranks the pair right, pi+ > pi-, and which pairs changed sides (docs/derivations.md 5.8).

    Args:
        now: `([pairs], [pairs])` L+ and L-, nats.
        before: the same under the reference or at step 0, if known.

    Returns:
        `{ranking_accuracy: [pairs] bool}` and, with `before`, `flips_to_right`, `flips_to_wrong`. Not the reward accuracy, which
        compares log-ratios: a pair may have a right reward and a wrong ranking.
    """
    right = now[0] > now[1]
    if before is None:
        return {"ranking_accuracy": right}
    was_right = before[0] > before[1]
    return {"ranking_accuracy": right, "flips_to_right": right & ~was_right, "flips_to_wrong": was_right & ~right}


def control(pairs: PairOutput) -> dict[str, Tensor]:
    """How much each pair still pushes: `weight` w = sigma(-margin) in (0, 1) and `saturated` 1[w < 0.01] (docs/derivations.md 5.2).

    The margin is the loss's own: chosen minus rejected implicit reward. For DPO w is 1/2 at the start, and d_w = beta w. Nothing
    where a loss pushes otherwise (a hinge, a square, an offset): there w would not measure the push.
    """
    if not pairs.is_logistic:
        return {}
    weight = (pairs.rejected_rewards - pairs.chosen_rewards).sigmoid()
    return {"weight": weight, "saturated": weight < SATURATED}


def chosen_change_by_class(batch: CompletionBatch, token_changes: Tensor) -> dict[str, Counted]:
    """Change of the chosen completions' tokens by what they are to the rejected one (docs/derivations.md 5.7; tests Corollary 3).

    The paper's account is that chosen falls because it shares tokens with rejected; then `shared` and `overlap` fall, `novel` not.

    Args:
        batch: the pairs.
        token_changes: `[K]` log pi - log pi0 of every token, nats.

    Returns:
        `{chosen/<class>/change_per_token: sum and count over the tokens of the class}`.
    """
    sums, numbers = (of_sides[0] for of_sides in sums_by_class(pair_tokens(batch), token_changes[None]))
    return {f"chosen/{c.label}/change_per_token": Counted(sums[c, 0], numbers[c]) for c in TokenClass}


def pair_movements(batch: CompletionBatch, token_logps: Tensor, baseline: Tensor) -> dict[str, Tensor | Counted]:
    """Displacement, quadrants, and the chosen side's change by class, of pairs whose tokens had log-probs `baseline` (nats)."""
    token_changes = token_logps.detach() - baseline
    chosen, rejected = sums_of_pairs(batch, token_changes)
    members = {f"quadrant/{name}": member for name, member in quadrants(chosen, rejected).items()}
    return {"displaced": chosen < -MIN_FALL, **members, **chosen_change_by_class(batch, token_changes)}


class DegradationMonitor(ProbeMonitor):
    """Displacement, quadrants, rankings and saturation of pairs.

    `degradation/...` is read off the training pairs, and counts from the cached reference; nothing where an objective has no pairs.
    `degradation/bank/...` is read off the pairs of the frozen probe bank, and counts from step 0: the same for every objective.
    Every metric: docs/metrics.md.
    """

    name = "degradation"

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        if output.pairs is None:
            return {}
        sequences = output.pairs.sequences
        known = sequences.reference_chosen is not None and sequences.reference_rejected is not None
        now = sequences.policy_chosen.detach(), sequences.policy_rejected.detach()
        values: dict[str, Tensor | Counted] = {
            **control(output.pairs),
            **rankings(now, sequences.reference() if known else None),
        }
        if batch.reference_token_logps is not None:
            values |= pair_movements(batch, output.stats.logps, batch.reference_token_logps)
        return {f"degradation/{name}": value for name, value in values.items()}

    @override
    def measure_bank(self, bank: BankBatch) -> Values:
        batch = bank.batch
        if not len(batch.pairs):
            return {}
        values = {
            **rankings(sums_of_pairs(batch, bank.stats.logps.detach()), sums_of_pairs(batch, bank.baseline_token_logps)),
            **pair_movements(batch, bank.stats.logps, bank.baseline_token_logps),
        }
        return {f"degradation/bank/{name}": value for name, value in values.items()}
