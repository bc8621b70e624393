"""Where the probability mass goes: the paper's Dispersion (Property 3), on the training batches and on a frozen probe bank."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from callbacks.pair_tokens import NONE, TokenClass, pair_tokens
from callbacks.probe_bank import BankBatch, ProbeMonitor
from callbacks.readings import Counted, Values
from callbacks.selection import sequences_by_kind, tokens_by_kind
from datamodules.batches import CompletionBatch, sum_by_sequence
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats

PAIR_KINDS = ("chosen", "rejected")


def sharpness(stats: TokenStats, batch: CompletionBatch) -> dict[str, Tensor]:
    """How concentrated the next-token distribution is along the completions of each kind, `[n tokens]` each.

    `<kind>/entropy` H (nats), `<kind>/exp_entropy` e^H (tokens it is spread over), `<kind>/top1_mass` max_v p_v,
    `<kind>/sum_sq_probs` sum_v p_v^2, `<kind>/argmax_rate` whether the completion's token is the most likely one.
    """
    measured = {
        "entropy": stats.entropy,
        "exp_entropy": stats.entropy.exp(),
        "top1_mass": stats.top1_probs,
        "sum_sq_probs": stats.sum_sq_probs,
        "argmax_rate": stats.is_top1,
    }
    members = tokens_by_kind(batch)
    return {f"{kind}/{name}": values[index] for kind, index in members.items() for name, values in measured.items()}


def off_pair_mass(stats: TokenStats, batch: CompletionBatch) -> dict[str, Counted]:
    """Mass that is on neither completion of a pair where they part ways.

    At the first divergent position both completions have the same context, hence the same distribution p, and
        off_pair_mass      = 1 - p(y+) - p(y-)           given the common prefix,
        off_pair_path_mass = 1 - P(prefix) (p(y+) + p(y-))   of all responses: those that leave the pair before or there.
    Where responses are single tokens both are exactly 1 - pi+ - pi- (the paper's toy). A side that ends where the other goes
    on has no token there and counts 0.

    Returns:
        Sums and counts over the pairs whose completions differ; values in [0, 1].
    """
    tokens = pair_tokens(batch)
    probs = stats.logps.detach().exp()
    exists = tokens.branches != NONE
    mass = torch.where(exists, probs[tokens.branches], 0).sum(1)
    shared = torch.where(tokens.classes == TokenClass.SHARED, stats.logps.detach(), 0)
    prefix_logps = sum_by_sequence(shared, batch.target_sequence, batch.num_sequences)[batch.pairs[:, 0]]
    differs = exists.any(1)
    masses = {"off_pair_mass": mass, "off_pair_path_mass": prefix_logps.exp() * mass}
    return {name: Counted(((1 - inside) * differs).sum(), differs.sum()) for name, inside in masses.items()}


def changes_by_group(bank: BankBatch) -> dict[str, Tensor]:
    """Change of the bank's completions since step 0, the pairs' own against every kind of probe (paper.md 7, D3.5).

    Returns:
        For the groups `pair` (chosen and rejected), `probes` (all others) and each kind of probe: `<group>/change` `[n]` (nats)
        and `<group>/change_per_token`.
    """
    members = sequences_by_kind(bank.batch)
    groups = {kind: [index] for kind, index in members.items() if kind not in PAIR_KINDS}
    groups["probes"] = [index for kind, index in members.items() if kind not in PAIR_KINDS]
    groups["pair"] = [index for kind, index in members.items() if kind in PAIR_KINDS]
    changes = bank.changes()
    measured = {"change": changes, "change_per_token": changes / bank.batch.lengths}
    return {
        f"{group}/{name}": torch.cat([values[index] for index in indices])
        for group, indices in groups.items()
        if indices
        for name, values in measured.items()
    }


def dispersion_index(means: dict[str, float]) -> dict[str, float]:
    """Mean change of the probes minus that of the pairs' own completions, in nats and per token; all probes and each kind.

    Above 0: responses outside the pairs gain on those inside. 0: all move together.

    Args:
        means: `{<group>/change, <group>/change_per_token}` as `changes_by_group` names them.

    Returns:
        `{<group>/index, <group>/index_per_token}` of every group but `pair`.
    """
    return {
        name.replace("/change", "/index"): value - means[f"pair/{measure}"]
        for name, value in means.items()
        for group, _, measure in [name.partition("/")]
        if group != "pair" and f"pair/{measure}" in means
    }


class DispersionMonitor(ProbeMonitor):
    """Sharpness of the policy, mass outside the pairs, and how probes fare against the pairs' own completions.

    `dispersion/...` is read off the training batches, `dispersion/bank/...` off the frozen probe bank. Every metric:
    docs/metrics.md.
    """

    name = "dispersion"

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        return _prefixed("dispersion", _measured(output.stats, batch))

    @override
    def measure_bank(self, bank: BankBatch) -> Values:
        return _prefixed("dispersion/bank", _measured(bank.stats, bank.batch) | changes_by_group(bank))

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        prefix = "dispersion/bank/"
        bank = {name.removeprefix(prefix): value for name, value in means.items() if name.startswith(prefix) and "/change" in name}
        return means | {f"{prefix}{name}": value for name, value in dispersion_index(bank).items()}


def _measured(stats: TokenStats, batch: CompletionBatch) -> dict[str, Tensor | Counted]:
    return {**sharpness(stats, batch), **off_pair_mass(stats, batch)}


def _prefixed(prefix: str, values: Values) -> Values:
    return {f"{prefix}/{name}": value for name, value in values.items()}
