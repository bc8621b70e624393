"""Monitor of the probability that moved since training started, token by token, on the frozen bank (docs/derivations.md 6.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.answers.texts import decoder_of, token_texts
from callbacks.diagnostics.probe_bank import BankBatch, BankDiagnostic
from callbacks.mathematics.head_geometry import MAX_COLUMNS, likely_tokens
from callbacks.mathematics.token_trie import token_trie
from callbacks.readings import Values
from datamodules.contracts.batches import SIDES, CompletionBatch
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from lightning_modules.models.heads.output_head import OutputHead
from lightning_modules.token_stats import TokenStats

TOP = 10
"""Tokens whose mass is summed as `top10`, and that are named in the rows."""

NAMED_ROWS = "gaining_tokens"
"""Name of the rows that say which tokens gained most."""


@dataclass(frozen=True, eq=False)
class Watched:
    """The positions of one batch of the bank at which distributions are compared."""

    rows: Tensor
    """`[R]` int64 scored positions."""
    tokens: Tensor | None
    """`[n]` tokens kept apart; None where all V are."""
    before: Tensor
    """`[R, n + 1]` their probabilities at the start, in the last column what all other tokens had."""
    seen: Tensor
    """`[R, n + 1]` bool: tokens that some known response to the prompt has there, after the same prefix."""


def watched_rows(batch: CompletionBatch, number: int) -> Tensor:
    """`[R]` positions of the chosen and rejected completions, at most `number`, spread evenly."""
    on_side = torch.tensor([kind in SIDES for kind in batch.kinds], device=batch.target_ids.device)
    rows = on_side[batch.target_sequence].nonzero().squeeze(1)
    picked = torch.linspace(0, max(len(rows) - 1, 0), min(number, len(rows)), dtype=torch.float64, device=rows.device)
    return rows[picked.round().long()]


def distributions(head: OutputHead, tokens: Tensor | None, batch: CompletionBatch, stats: TokenStats, rows: Tensor) -> Tensor:
    """`[R, n + 1]` probabilities of `tokens` at `rows`, and in the last column that of all others; rows sum to 1."""
    assert stats.hidden is not None, "a policy with an output head keeps its input"
    if tokens is None:
        probs = head.logits(stats.hidden[rows], rows).softmax(-1)
        return torch.cat([probs, probs.new_zeros(len(rows), 1)], 1)
    logits = head.columns(tokens).logits(stats.hidden[rows], rows)
    places = tokens.new_zeros(head.num_columns).scatter(0, tokens, torch.arange(len(tokens), device=tokens.device))
    own = logits.gather(1, places[batch.target_ids[rows], None])
    probs = (logits - own + stats.logps.detach()[rows, None]).exp()
    return torch.cat([probs, (1 - probs.sum(1, keepdim=True)).clamp_min(0)], 1)


def gains(now: Tensor, watched: Watched) -> dict[str, Tensor]:
    """What tokens gained at each position, and who did: `[R]` each (sums of [p - p0]_+, so that gains equal losses).

    Returns:
        `moved`: all gains, the total variation distance to the start, in [0, 1]. Of it `to_seen` went to tokens that a known
        response has there, `to_off_data` to all others, and `to_argmax` to the token likeliest at the start, seen or not.
    """
    gained = (now - watched.before).clamp_min(0)
    argmax = watched.before[:, :-1].argmax(1, keepdim=True)
    return {
        "moved": gained.sum(1),
        "to_seen": (gained * watched.seen).sum(1),
        "to_off_data": (gained * ~watched.seen).sum(1),
        "to_argmax": gained.gather(1, argmax).squeeze(1),
    }


def seen_tokens(batch: CompletionBatch, rows: Tensor, tokens: Tensor | None, vocab_size: int) -> Tensor:
    """`[R, n + 1]` bool (see `Watched.seen`); every token of a known response is among `tokens`."""
    trie, device = token_trie(batch), rows.device
    sets, nodes = trie.token_sets(batch.target_ids), trie.nodes[rows].tolist()
    row = torch.tensor([number for number, node in enumerate(nodes) for _ in sets[node]], dtype=torch.int64, device=device)
    token = torch.tensor([token for node in nodes for token in sets[node]], dtype=torch.int64, device=device)
    if tokens is not None:
        token = tokens.new_zeros(vocab_size).scatter(0, tokens, torch.arange(len(tokens), device=device))[token]
    columns = (vocab_size if tokens is None else len(tokens)) + 1
    return torch.zeros(len(rows), columns, dtype=torch.bool, device=device).index_put((row, token), torch.ones_like(row).bool())


class MassMonitor(BankDiagnostic):
    """How much probability has moved along the bank's pairs since step 0, and to whom; nothing where a policy has no output head.

    `mass/<side>/...`, and the tokens that gained most in `<run>/diagnostics/gaining_tokens.jsonl`. Every metric: docs/metrics.md.

    Args:
        every_n_steps: cadence in optimizer steps; the bank is evaluated, as for all monitors of it, once a step.
        max_positions: positions compared in each batch of the bank, spread evenly over its pairs.
        max_columns: tokens of the vocabulary that are told apart; the others are one.
    """

    name = "mass"

    def __init__(self, every_n_steps: int = 50, max_positions: int = 256, max_columns: int = MAX_COLUMNS) -> None:
        super().__init__(every_n_steps)
        require_at_least(1, max_positions=max_positions, max_columns=max_columns)
        self.max_positions, self.max_columns = max_positions, max_columns
        self._starts: list[tuple[Tensor | None, Tensor]] = []
        self._watched: list[Watched] = []
        self._heads: list[OutputHead | None] = []
        self._number = 0
        self._gained: Tensor | None = None

    @override
    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> list[Values]:
        module = require(pl_module, HasPolicy)
        policy, evaluation = module.policy, module.probe_evaluation()
        # On every rank: a sharded layer is gathered from all.
        self._heads, self._number, self._gained = [policy.output_head(batch) for batch, _ in evaluation], 0, None
        return super().measure_policy(trainer, pl_module)

    @override
    def measure_bank(self, bank: BankBatch) -> Values:
        number, self._number = self._number, self._number + 1
        head, batch = self._heads[number], bank.batch
        if head is None or bank.stats.hidden is None:
            return {}
        watched = self._watched_of(number, head, bank)
        now = distributions(head, watched.tokens, batch, bank.stats, watched.rows)
        self._count(now - watched.before, watched.tokens, head.num_columns)
        measured = {**gains(now, watched), f"top{TOP}": now[:, :-1].topk(min(TOP, now.shape[1] - 1)).values.sum(1)}
        kinds = torch.tensor([SIDES.index(kind) if kind in SIDES else -1 for kind in batch.kinds], device=now.device)
        sides = kinds[batch.target_sequence[watched.rows]]
        return {
            f"mass/{side}/{name}": values[sides == place] for place, side in enumerate(SIDES) for name, values in measured.items()
        }

    def _watched_of(self, number: int, head: OutputHead, bank: BankBatch) -> Watched:
        if number == len(self._watched):
            rows, device = watched_rows(bank.batch, self.max_positions), bank.stats.logps.device
            if number == len(self._starts):
                tokens = likely_tokens(head, bank.batch, bank.stats, self.max_columns, rows)
                self._starts.append((tokens, distributions(head, tokens, bank.batch, bank.stats, rows).cpu()))
            tokens, before = self._starts[number]
            tokens = None if tokens is None else tokens.to(device)
            seen = seen_tokens(bank.batch, rows, tokens, head.num_columns)
            self._watched.append(Watched(rows, tokens, before.to(device), seen))
        return self._watched[number]

    def _count(self, moved: Tensor, tokens: Tensor | None, vocab_size: int) -> None:
        if self._gained is None:
            self._gained = moved.new_zeros(vocab_size)
        columns = torch.arange(vocab_size, device=moved.device) if tokens is None else tokens
        self._gained.index_add_(0, columns, moved[:, :-1].clamp_min(0).sum(0))

    @override
    def finish(self, means: dict[str, float]) -> dict[str, float]:
        """Shares of what has moved, where anything has."""
        for side in SIDES:
            moved = means.get(f"mass/{side}/moved", 0.0)
            for name in (f"mass/{side}/to_{group}" for group in ("seen", "off_data", "argmax")):
                if name in means:
                    share = means.pop(name)
                    means |= {name: share / moved} if moved > 1e-6 else {}
        return means

    @override
    def flush(self, trainer: Trainer) -> dict[str, float]:
        if self._gained is not None:
            self._name_tokens(trainer, self._gained / sum(len(watched.rows) for watched in self._watched))
        return super().flush(trainer)

    def _name_tokens(self, trainer: Trainer, gained: Tensor) -> None:
        values, tokens = gained.topk(min(TOP, len(gained)))
        texts = token_texts(decoder_of(trainer), tokens.tolist())
        self.write_row(trainer, NAMED_ROWS, {"step": trainer.global_step, "tokens": texts, "gains": values.tolist()})

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "starts": self._starts}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._starts = list(state_dict.get("starts", []))
