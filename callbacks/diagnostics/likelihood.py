"""Monitor of the completions' likelihoods and their change: the paper's Drastic drop (Property 1, Figures 2-3, Table 7)."""

from __future__ import annotations

import math

from torch import Tensor
from typing_extensions import override

from callbacks.diagnostics.probe_bank import BankBatch, ProbeMonitor
from callbacks.mathematics.selection import sequences_by_kind, tokens_by_kind
from callbacks.readings import Values
from datamodules.contracts.batches import SIDES, CompletionBatch, sum_by_sequence
from lightning_modules.step_output import StepOutput

MIN_MARGIN_GROWTH = 0.01
"""Nats. Below it the share of the margin that came from the rejected side is a share of rounding noise."""

_SQUARED = "/squared"

VALLEY_LOGP = math.log(1e-3)
"""Nats. A token less likely than this lies in a valley, where suppressing it moves mass to the argmax (arXiv 2407.10490)."""


def likelihoods(batch: CompletionBatch, token_logps: Tensor, baseline: Tensor | None) -> dict[str, Tensor]:
    """Log-likelihoods of the completions of each kind, and their change.

    Args:
        batch: the completions.
        token_logps: `[K]` log-probs under the policy, nats.
        baseline: `[K]` log-probs that changes count from, nats; None where there are none.

    Returns:
        Of every kind in the batch `<kind>/logp` `[n]` (nats), `<kind>/logp_per_token` (nats per token) and, given a baseline,
        `<kind>/change`, `<kind>/change_per_token`.
    """
    logps = sum_by_sequence(token_logps.detach(), batch.target_sequence, batch.num_sequences)
    measured = {"logp": logps, "logp_per_token": logps / batch.lengths}
    if baseline is not None:
        change = logps - sum_by_sequence(baseline, batch.target_sequence, batch.num_sequences)
        measured |= {"change": change, "change_per_token": change / batch.lengths}
    members = sequences_by_kind(batch)
    return {f"{kind}/{name}": values[index] for kind, index in members.items() for name, values in measured.items()}


def drop_gap(batch: CompletionBatch, token_logps: Tensor, baseline: Tensor) -> Tensor:
    """Change of the rejected completion per token minus change of the chosen one: Delta-/T- - Delta+/T+, `[pairs]`.

    Nats per token. Negative: the rejected side fell further than the chosen, as it should; the more negative, the more
    drastic the drop.
    """
    change = sum_by_sequence(token_logps.detach() - baseline, batch.target_sequence, batch.num_sequences) / batch.lengths
    chosen, rejected = batch.pairs.unbind(1)
    return change[rejected] - change[chosen]


def drop_share(chosen_change: float, rejected_change: float) -> float | None:
    """Share of the margin's growth that came from pushing the rejected completion down: -Delta- / (Delta+ - Delta-).

    0: all of it came from the chosen side; 1: all from the rejected side; above 1: the chosen likelihood fell too, and the
    margin grew only because the rejected fell further; below 0: both rose.

    Args:
        chosen_change: mean Delta+, nats.
        rejected_change: mean Delta-, nats.

    Returns:
        None where the margin grew by less than `MIN_MARGIN_GROWTH`.
    """
    growth = chosen_change - rejected_change
    return -rejected_change / growth if growth >= MIN_MARGIN_GROWTH else None


def valley_tokens(batch: CompletionBatch, token_logps: Tensor) -> dict[str, Tensor]:
    """`{<kind>/valley: [n] bool}`: whether each token of a kind has a probability below 1e-3."""
    valley = token_logps.detach() < VALLEY_LOGP
    return {f"{kind}/valley": valley[index] for kind, index in tokens_by_kind(batch).items()}


class LikelihoodMonitor(ProbeMonitor):
    """Log-likelihood of chosen, rejected and probe completions: sums, per token, and change (docs/derivations.md 4.1, 4.2, 4.5).

    `likelihood/<kind>/...` is read off the training batches; its changes count from the cached reference, and are left out
    where none is cached (SFT). `likelihood/bank/<kind>/...` is read off the frozen probe bank: the same completions through
    the whole run, with changes since step 0. Every metric: docs/metrics.md.
    """

    name = "likelihood"

    @override
    def keeps(self, name: str) -> bool:
        return not name.endswith(("valley", _SQUARED))

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        return _measured("likelihood", batch, output.stats.logps, batch.reference_token_logps)

    @override
    def measure_bank(self, bank: BankBatch) -> Values:
        values = _measured("likelihood/bank", bank.batch, bank.stats.logps, bank.baseline_token_logps)
        return values | {f"{name}{_SQUARED}": value.double() ** 2 for name, value in values.items() if _varies(name)}

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        shares = {f"{prefix}/drop_share": _drop_share_of(means, prefix) for prefix in ("likelihood", "likelihood/bank")}
        known = {name: value for name, value in means.items() if not name.endswith(_SQUARED)}
        return known | _spreads(means) | {name: share for name, share in shares.items() if share is not None}


def _measured(prefix: str, batch: CompletionBatch, token_logps: Tensor, baseline: Tensor | None) -> dict[str, Tensor]:
    values = likelihoods(batch, token_logps, baseline) | valley_tokens(batch, token_logps)
    if baseline is not None:
        values["drop_gap"] = drop_gap(batch, token_logps, baseline)
    return {f"{prefix}/{name}": measured for name, measured in values.items()}


def _varies(name: str) -> bool:
    return name.endswith(("/logp_per_token", "/change_per_token"))


def _spreads(means: dict[str, float]) -> dict[str, float]:
    """`<name>_spread`: standard deviation over completions, from the means of the value and of its square."""
    squares = {name.removesuffix(_SQUARED): value for name, value in means.items() if name.endswith(_SQUARED)}
    return {f"{name}_spread": math.sqrt(max(square - means[name] ** 2, 0.0)) for name, square in squares.items()}


def _drop_share_of(means: dict[str, float], prefix: str) -> float | None:
    if f"{prefix}/drop_gap" not in means:
        # Single completions: nothing is the margin of a pair.
        return None
    changes = [means.get(f"{prefix}/{side}/change", math.nan) for side in SIDES]
    return None if any(map(math.isnan, changes)) else drop_share(*changes)
