"""Differentiable KL of a reference's next-token distribution q to the policy's p, from the hidden states of both.

KL(q || p) = sum_v q_v (r_v - z_v) - logsumexp(r) + logsumexp(z) with logits r of q and z of p, formed side by side tile by tile and
again in backward: `[K, V]` never exists. Backward of k = dL/dKL at the logits z: k (p - q), then through soft-cap and scale.
Beside the head's own four matrix products these are six.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lightning_modules.models.heads.tile_gradients import HeadInputs, TileGradients
from lightning_modules.models.heads.tiled_logits import CPU_TILE, ColumnTile, LogitTransform, TiledLogits, TileShape, product_dtype

DEVICE_TILE = TileShape(4096, 8192)
"""128 MiB of float32. Three such tiles are held at a time, which is less than one tile of the log-probs takes."""


class Compared(NamedTuple):
    """The reference's distribution at the K positions. No gradient."""

    hidden: Tensor
    """`[K, H']` input of its output layer."""
    weight: Tensor
    """`[V, H']`."""
    bias: Tensor | None
    """`[V]`."""
    transform: LogitTransform
    logps: Tensor
    """`[K]` its log-prob of the targets, nats."""


class Divergence(NamedTuple):
    """Of the policy's distribution p and the reference's q at each of the K positions."""

    kl: Tensor
    """`[K]` KL(q || p), nats, >= 0. Differentiable."""
    overlap: Tensor
    """`[K]` sum_v p_v q_v."""
    reference_sum_sq: Tensor
    """`[K]` sum_v q_v^2."""
    reference_logps: Tensor
    """`[K]` log q of the target, nats."""

    def gap_squared(self, sum_sq_probs: Tensor) -> Tensor:
        """`[K]` sum_v (p_v - q_v)^2, given sum_v p_v^2. Rounding where p and q agree."""
        return (sum_sq_probs - 2 * self.overlap + self.reference_sum_sq).clamp_min(0)


def divergence(inputs: HeadInputs, transform: LogitTransform, compared: Compared) -> Divergence:
    """KL and what goes with it, for `[K]` positions.

    Args:
        inputs: of the policy's head.
        transform: of its logits.
        compared: the reference.
    """
    tile = CPU_TILE if inputs.hidden.device.type == "cpu" else DEVICE_TILE
    kl, overlap, squares = _TiledDivergence.apply(*inputs, transform, compared, tile)  # type: ignore[no-untyped-call]
    return Divergence(kl, overlap, squares, compared.logps)


@dataclass
class _Sums:
    """`[r]` each, over the columns seen so far; m the largest logit, s = sum e^(logit - m)."""

    maximum: Tensor
    exp_sum: Tensor
    other_maximum: Tensor
    other_exp_sum: Tensor
    weighted: Tensor
    """sum e^(r - m_q) (r - z)."""
    overlap: Tensor
    """sum e^(z - m_p) e^(r - m_q)."""
    squares: Tensor
    """sum e^(2 (r - m_q))."""

    @classmethod
    def nothing_seen(cls, logits: Tensor) -> _Sums:
        zeros = logits.new_zeros(7, len(logits))
        # Finite, unlike -inf, so that a rescaling before the first column is 0 * finite and not 0 * inf.
        zeros[0] = zeros[2] = torch.finfo(logits.dtype).min
        return cls(*zeros)

    def update(self, logits: Tensor, others: Tensor) -> None:
        """Take in a tile of logits z and r; both are destroyed."""
        maximum = torch.maximum(self.maximum, logits.amax(1))
        other_maximum = torch.maximum(self.other_maximum, others.amax(1))
        factor, other_factor = (self.maximum - maximum).exp(), (self.other_maximum - other_maximum).exp()
        gaps = others - logits
        p, q = logits.sub_(maximum[:, None]).exp_(), others.sub_(other_maximum[:, None]).exp_()
        self.exp_sum = self.exp_sum * factor + p.sum(1)
        self.other_exp_sum = self.other_exp_sum * other_factor + q.sum(1)
        self.weighted = self.weighted * other_factor + torch.linalg.vecdot(q, gaps)
        self.overlap = self.overlap * factor * other_factor + torch.linalg.vecdot(p, q)
        self.squares = self.squares * other_factor.square() + torch.linalg.vecdot(q, q)
        self.maximum, self.other_maximum = maximum, other_maximum

    def results(self) -> tuple[Tensor, ...]:
        """KL, overlap, sum q^2, and the two logsumexp."""
        kl = self.weighted / self.other_exp_sum + self.maximum - self.other_maximum + self.exp_sum.log() - self.other_exp_sum.log()
        overlap = self.overlap / (self.exp_sum * self.other_exp_sum)
        squares = self.squares / self.other_exp_sum.square()
        log_sums = self.maximum + self.exp_sum.log(), self.other_maximum + self.other_exp_sum.log()
        return kl.clamp_min(0), overlap, squares, *log_sums


class _Context(FunctionCtx):
    """What autograd keeps between forward and backward."""

    transform: LogitTransform
    compared: Compared
    tile: TileShape
    product_dtype: torch.dtype
    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]


class _TiledDivergence(torch.autograd.Function):
    """(hidden, weight, bias, transform, compared, tile) -> `[K]` KL, overlap and sum q^2; of these the first has a gradient."""

    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        transform: LogitTransform,
        compared: Compared,
        tile: TileShape,
    ) -> tuple[Tensor, ...]:
        """Keeps the inputs and two `[K]` normalisers; of the reference what is there anyway."""
        ctx.transform, ctx.compared, ctx.tile, ctx.product_dtype = transform, compared, tile, product_dtype(hidden, weight)
        found: dict[int, _Sums] = {}
        with torch.autocast(hidden.device.type, enabled=False):
            for rows, _, logits, others in _side_by_side(*_both(ctx, HeadInputs(hidden, weight, bias))):
                found.setdefault(rows.start, _Sums.nothing_seen(logits)).update(logits, others)
        columns = zip(*(sums.results() for sums in found.values()), strict=True)
        kl, overlap, squares, log_sum, other_log_sum = map(torch.cat, columns)
        ctx.save_for_backward(hidden, weight, bias, log_sum, other_log_sum)  # type: ignore[arg-type]  # None is kept too
        ctx.mark_non_differentiable(overlap, squares)
        return kl, overlap, squares

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_kl: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs that need one."""
        hidden, weight, bias, log_sum, other_log_sum = ctx.saved_tensors
        inputs, softcap = HeadInputs(hidden, weight, bias), ctx.transform.softcap
        own = (grad_kl * ctx.transform.scale)[:, None]
        with torch.autocast(hidden.device.type, enabled=False):
            logits, others = _both(ctx, inputs)
            gradients, before = TileGradients(inputs, ctx.needs_input_grad[:3], logits), None
            for rows, tile, z, r in _side_by_side(logits, others):
                if tile is not before:
                    gradients.start(tile)
                    before = tile
                slope = own[rows] if softcap is None else own[rows] * (1 - (z / softcap).square())
                apart = z.sub_(log_sum[rows, None]).exp_().sub_(r.sub_(other_log_sum[rows, None]).exp_())
                gradients.add(rows, tile, apart.mul_(slope).to(ctx.product_dtype))
                if rows.stop == len(hidden):
                    gradients.finish(tile)
        return *gradients.results(), None, None, None


def _both(ctx: _Context, inputs: HeadInputs) -> tuple[TiledLogits, TiledLogits]:
    """Tiles of the policy's logits and of the reference's, of one type."""
    other, dtype = ctx.compared, ctx.product_dtype
    logits = TiledLogits(inputs.hidden.to(dtype), inputs.weight, inputs.bias, ctx.transform, ctx.tile)
    return logits, TiledLogits(other.hidden.to(dtype), other.weight, other.bias, other.transform, ctx.tile)


def _side_by_side(logits: TiledLogits, others: TiledLogits) -> Iterator[tuple[slice, ColumnTile, Tensor, Tensor]]:
    """Rows, columns, and both `[r, n]` tiles of logits, which may be destroyed; rows within columns."""
    buffer, other_buffer = logits.buffer(), others.buffer()
    for tile, other_tile in zip(logits.column_tiles(), others.column_tiles(), strict=True):
        for rows in logits.row_slices():
            yield rows, tile, logits.of(rows, tile, buffer), others.of(rows, other_tile, other_buffer)
