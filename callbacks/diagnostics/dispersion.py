"""Monitor of the paper's Dispersion (Property 3): where the mass goes, on training batches and on a frozen bank."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.diagnostics.probe_bank import BankBatch, ProbeMonitor
from callbacks.mathematics.pair_tokens import NONE, TokenClass, pair_tokens
from callbacks.mathematics.selection import sequences_by_kind, tokens_by_kind
from callbacks.mathematics.squeeze import Sharpness, squeezed
from callbacks.mathematics.token_trie import log_seen_mass, off_data_mass, token_trie
from callbacks.readings import Counted, Values
from datamodules.contracts.batches import SIDES, CompletionBatch, sum_by_sequence
from lightning_modules.step_output import StepOutput
from lightning_modules.token_stats import TokenStats


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


def known_responses(bank: BankBatch) -> dict[str, Tensor | Counted]:
    """Mass on and off the trie of the responses that the data has for each prompt (docs/derivations.md 6.2).

    Returns:
        `off_data_mass` `[nodes]`: mass on tokens that follow a prefix in no known response, given the prefix;
        `log_seen_mass` `[prompts]`: log-probability of all known responses together (nats).
    """
    trie = token_trie(bank.batch)
    seen = log_seen_mass(trie, bank.batch, bank.stats.logps)
    return {"off_data_mass": off_data_mass(trie, bank.stats.logps), "log_seen_mass": seen[seen.isfinite()]}


def changes_by_group(bank: BankBatch) -> dict[str, Tensor]:
    """Change of the bank's completions since step 0, the pairs' own against every kind of probe (docs/derivations.md 6.5).

    Returns:
        For the groups `pair` (chosen and rejected), `probes` (all others) and each kind of probe: `<group>/change` `[n]` (nats)
        and `<group>/change_per_token`.
    """
    members = sequences_by_kind(bank.batch)
    groups = {kind: [index] for kind, index in members.items() if kind not in SIDES}
    groups["probes"] = [index for kind, index in members.items() if kind not in SIDES]
    groups["pair"] = [index for kind, index in members.items() if kind in SIDES]
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

    def __init__(self, every_n_steps: int = 10, probe_every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps, probe_every_n_steps)
        self._before: list[Sharpness] = []
        self._now: list[Sharpness] = []

    @override
    def measure(self, output: StepOutput, batch: CompletionBatch) -> Values:
        return _prefixed("dispersion", _measured(output.stats, batch))

    @override
    def measure_bank(self, bank: BankBatch) -> Values:
        values = _measured(bank.stats, bank.batch) | known_responses(bank) | changes_by_group(bank)
        now = Sharpness(bank.stats.logps.detach(), bank.stats.top1_probs.log())
        if self._before:
            before = Sharpness(*(part.to(now.token_logps.device) for part in self._before[len(self._now)]))
            values["squeezed"] = squeezed(bank.batch, before, now)
        self._now.append(now)
        return _prefixed("dispersion/bank", values)

    @override
    def flush(self, trainer: Trainer) -> dict[str, float]:
        if self._now:
            self._before, self._now = [Sharpness(*(part.cpu() for part in reading)) for reading in self._now], []
        return super().flush(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "before": [tuple(reading) for reading in self._before]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._before = [Sharpness(*reading) for reading in state_dict.get("before", [])]

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        prefix = "dispersion/bank/"
        bank = {name.removeprefix(prefix): value for name, value in means.items() if name.startswith(prefix) and "/change" in name}
        return means | {f"{prefix}{name}": value for name, value in dispersion_index(bank).items()}


def _measured(stats: TokenStats, batch: CompletionBatch) -> dict[str, Tensor | Counted]:
    return {**sharpness(stats, batch), **off_pair_mass(stats, batch)}


def _prefixed(prefix: str, values: Values) -> Values:
    return {f"{prefix}/{name}": value for name, value in values.items()}
