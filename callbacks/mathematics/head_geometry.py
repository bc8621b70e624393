"""The output layer's gradients of a pair's log-likelihoods, in closed form (docs/derivations.md 5.3).

With h_k the layer's input and p_k the softmax at scored position k, and g_k = onehot(y_k) - p_k, the gradient of a completion's
log-likelihood by the layer's weight is s = sum_k g_k h_k^T. Inner products need no gradient and no `[V, H]` matrix:
    <s_a, s_b> = sum_{k in a, k' in b} <g_k, g_k'> <h_k, h_k'>.
The weight alone: no bias, and where input embeddings are tied to it their share in the input is not in it.

Shape legend: K scored positions, H hidden width, V vocabulary, n columns of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.mathematics.selection import host_lengths
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.ranges import require_at_least
from lightning_modules.models.heads.output_head import OutputHead
from lightning_modules.models.policy import Policy
from lightning_modules.token_stats import TokenStats, softmax_gradient_l2

MAX_COLUMNS = 4096
"""Vocabularies up to this size are summed exactly; of larger ones the likeliest tokens (docs/results/diagnostics has the error)."""

ROWS_TOGETHER = 4096
"""Scored positions whose inner products an accelerator takes together: 64 MiB of them in float32."""

SAMPLED_ROWS = 64
"""Scored positions whose whole distribution says which tokens are likely."""


@dataclass(frozen=True, eq=False)
class PairGeometry:
    """Where the gradients s_w, s_l of log pi+ and log pi- by the output layer's weight point."""

    chosen_norms: Tensor
    """`[pairs]` ||s_w||, nats per unit of weight."""
    rejected_norms: Tensor
    """`[pairs]` ||s_l||."""
    inner: Tensor
    """`[pairs]` <s_w, s_l>."""

    @property
    def cosine(self) -> Tensor:
        """`[pairs]` rho in [-1, 1]; near 1 the two sides can hardly be moved apart."""
        return (self.inner / (self.chosen_norms * self.rejected_norms)).clamp(-1, 1)

    def log_centre(self) -> Tensor:
        """`[pairs]` log(||s_w|| / ||s_l||): log of the d_l / d_w that lies in the middle of the band.

        For a margin of beta_chosen h_w - beta_rejected h_l the band is centred by beta_rejected = beta_chosen ||s_w|| / ||s_l||
        (docs/derivations.md 5.5).
        """
        return self.chosen_norms.log() - self.rejected_norms.log()

    def predicted(self, incentives: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """First-order change of log pi+ and log pi- by the pair's own step on the layer, nats per unit of learning rate.

            chosen = d_w ||s_w||^2 - d_l <s_w, s_l>,    rejected = d_w <s_w, s_l> - d_l ||s_l||^2   (arXiv 2410.13828)

        Args:
            incentives: `([pairs], [pairs])` d_w and d_l.
        """
        push, pull = incentives
        chosen = push * self.chosen_norms.square() - pull * self.inner
        return chosen, push * self.inner - pull * self.rejected_norms.square()

    def in_band(self, incentives: tuple[Tensor, Tensor]) -> Tensor:
        """`[pairs]` bool: whether the step moves chosen up and rejected down (the disentanglement band, arXiv 2604.18239).

        With r = d_w / d_l, r* = ||s_l|| / ||s_w|| and rho > 0: iff rho r* < r < r* / rho. With rho <= 0 always.
        """
        chosen, rejected = self.predicted(incentives)
        return (chosen > 0) & (rejected < 0)


def pair_geometry(
    head: OutputHead, batch: CompletionBatch, stats: TokenStats, pairs: Sequence[Sequence[int]], max_columns: int = MAX_COLUMNS
) -> PairGeometry:
    """Norms and inner products of s_w and s_l; exact up to rounding where V <= `max_columns`.

    Above, <p_k, p_k'> is summed over the likeliest tokens, all targets among them, and the rest is taken as spread evenly; the
    squared rows ||g_k||^2 and the terms of the targets stay exact.

    Args:
        head: output layer of the scored positions.
        batch: the completions.
        stats: of the same positions, with `hidden`.
        pairs: `batch.pairs` on the host.
        max_columns: tokens that are summed.
    """
    grams = sequence_grams(head, batch, stats, pairs, max_columns)
    (chosen, inner), (_, rejected) = (row.unbind(1) for row in grams.unbind(1))
    return PairGeometry(chosen.clamp_min(0).sqrt(), rejected.clamp_min(0).sqrt(), inner)


def sequence_grams(
    head: OutputHead, batch: CompletionBatch, stats: TokenStats, groups: Sequence[Sequence[int]], max_columns: int = MAX_COLUMNS
) -> Tensor:
    """`[groups, m, m]` inner products of s within groups of m sequences (see `pair_geometry`)."""
    rows = _rows(batch)
    grams: list[Tensor] = []
    with torch.no_grad():
        residuals = _Residuals(head, batch, stats, max_columns)
        for together in _together([[rows[number] for number in group] for group in groups], stats.logps.device):
            size = len(together[0])
            products = _gram(residuals, [member for group in together for member in group])
            grams += [products[start : start + size, start : start + size] for start in range(0, len(products), size)]
    return torch.stack(grams)


def _together(groups: list[list[slice]], device: torch.device) -> Iterator[list[list[slice]]]:
    """Groups whose inner products are taken in one go.

    One by one on a CPU. An accelerator multiplies what no group asks for faster than the host makes the calls for each.
    """
    limit = 0 if device.type == "cpu" else ROWS_TOGETHER
    bundle: list[list[slice]] = []
    size = 0
    for group in groups:
        length = sum(member.stop - member.start for member in group)
        if bundle and size + length > limit:
            yield bundle
            bundle, size = [], 0
        bundle.append(group)
        size += length
    if bundle:
        yield bundle


def likely_tokens(
    head: OutputHead, batch: CompletionBatch, stats: TokenStats, max_columns: int, rows: Tensor | None = None
) -> Tensor | None:
    """`[n]` tokens to tell apart: every target of the batch, every argmax at `rows`, and the likeliest there on average.

    Args:
        head: output layer of the scored positions.
        batch: the completions.
        stats: of the same positions, with `hidden`.
        max_columns: n, or more where there are more targets.
        rows: `[R]` scored positions whose whole distribution is looked at; 64 spread evenly by default.

    Returns:
        None where n would be V: all tokens are told apart.
    """
    assert stats.hidden is not None, "a policy with an output head keeps its input"
    if rows is None:
        number = min(SAMPLED_ROWS, batch.num_targets)
        rows = torch.arange(number, device=batch.target_ids.device) * (batch.num_targets // number)
    # Room for every target, counted without asking the device which of them repeat.
    number = max(max_columns, batch.num_targets + len(rows))
    if number >= head.num_columns:
        return None
    logits = head.logits(stats.hidden[rows], rows)
    priority = logits.softmax(-1).mean(0)
    return priority.scatter(0, logits.argmax(-1), 1.5).scatter(0, batch.target_ids, 2.0).topk(number).indices


class _Residuals:
    """Rows g_k of the scored positions, over the columns that are summed."""

    def __init__(self, head: OutputHead, batch: CompletionBatch, stats: TokenStats, max_columns: int) -> None:
        assert stats.hidden is not None, "a policy with an output head keeps its input"
        tokens = likely_tokens(head, batch, stats, max_columns)
        self.hidden, self._logps, self._targets = stats.hidden, stats.logps.detach(), batch.target_ids
        self._head = head if tokens is None else head.columns(tokens)
        self.num_left_out = head.num_columns - self._head.num_columns
        # ||g||^2 over all of V, from the sums of p^2 that the training step has made.
        self._squares = softmax_gradient_l2(torch.ones_like(self._logps), stats).square()
        if tokens is not None:
            places = tokens.new_zeros(head.num_columns).scatter(0, tokens, torch.arange(len(tokens), device=tokens.device))
            self._targets = places[batch.target_ids]

    def of(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """`[r, n]` rows g, `[r]` mass left out of them, `[r]` squared norms of the rows over all of V."""
        logits, targets = self._head.logits(self.hidden[rows], rows), self._targets[rows, None]
        logps = self._logps[rows, None].to(logits.dtype)
        slope = self._head.slope(logits)
        probs = (logits - (logits.gather(1, targets) - logps)).exp() if self.num_left_out else logits.softmax(-1)
        left_out = (1 - probs.sum(1)).clamp_min(0) if self.num_left_out else probs.new_zeros(len(probs))
        # 1 - p_y from log p_y keeps its digits where p_y is near 1.
        residuals = probs.neg_().scatter_(1, targets, -torch.expm1(logps)).mul_(slope)
        varies = isinstance(slope, Tensor)
        return residuals, left_out, residuals.square().sum(1) if varies else self._squares[rows].to(probs.dtype) * slope**2


def _gram(residuals: _Residuals, members: list[slice]) -> Tensor:
    """`[m, m]` inner products of the s of the sequences at rows `members`."""
    rows, left_out, squares = (torch.cat(part) for part in zip(*map(residuals.of, members), strict=True))
    products = rows @ rows.T
    if residuals.num_left_out:
        # Off the diagonal the columns left out add little: as much as if the mass on them were spread evenly.
        products += torch.outer(left_out, left_out) / residuals.num_left_out
    products.diagonal().copy_(squares)
    hidden = torch.cat([residuals.hidden[member] for member in members]).to(products.dtype)
    products *= hidden @ hidden.T
    lengths = [member.stop - member.start for member in members]
    # Terms of both signs and very different size: their sum needs the digits.
    by_row = torch.stack([part.sum(1, dtype=torch.float64) for part in torch.split(products, lengths, 1)], 1)
    return torch.stack([part.sum(0) for part in torch.split(by_row, lengths)])


def _rows(batch: CompletionBatch) -> list[slice]:
    """Scored positions of every sequence."""
    ends = list(accumulate(host_lengths(batch)))
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


class HeadReader:
    """Reads the geometry of the next forward pass, before the optimizer moves the weights; no pass of its own.

    Args:
        max_columns: see `pair_geometry`.
    """

    def __init__(self, max_columns: int = MAX_COLUMNS) -> None:
        require_at_least(1, max_columns=max_columns)
        self.max_columns = max_columns
        self._geometry: PairGeometry | None = None

    def watch(self, policy: Policy) -> None:
        """Read the next call of the policy; call it in `on_train_batch_start`."""
        self._geometry = None

        def read(_: nn.Module, inputs: tuple[Any, ...], stats: TokenStats) -> None:
            handle.remove()
            self._geometry = self.geometry_of(policy, inputs[0], stats)

        handle = policy.register_forward_hook(read)

    def geometry_of(self, policy: Policy, batch: CompletionBatch, stats: TokenStats) -> PairGeometry | None:
        """Geometry of the batch's pairs; None where there are none, or the policy has no output head."""
        head = policy.output_head(batch)
        if head is None or stats.hidden is None or not batch.pair_numbers:
            return None
        return pair_geometry(head, batch, stats, batch.pair_numbers, self.max_columns)

    def take(self) -> PairGeometry | None:
        """What was read, once; call it in `on_train_batch_end`."""
        geometry, self._geometry = self._geometry, None
        return geometry
