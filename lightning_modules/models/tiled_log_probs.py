"""Differentiable log-probs of targets from hidden states, with logits formed tile by tile and again in backward.

log p_y = z_y - logsumexp(z). Backward of g = dL/dlog p_y at the logits: g (onehot(y) - p), then through soft-cap and scale.
Four matrix products in all; besides its results and gradients it holds two tiles.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_modules.models.running_stats import RunningStats, local_targets
from lightning_modules.models.tile_kernels import TileKernels
from lightning_modules.models.tiled_logits import ColumnTile, LogitTransform, TiledLogits, TileShape, multiply, product_dtype


class _Context(Protocol):
    """What autograd keeps between forward and backward."""

    transform: LogitTransform
    tile: TileShape
    kernels: TileKernels
    product_dtype: torch.dtype
    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


class TiledLogProbs(torch.autograd.Function):
    """(hidden `[K, H]`, weight `[V, H]`, bias `[V]` or None, target_ids `[K]`, transform, tile) -> the fields of `HeadStats`."""

    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target_ids: Tensor,
        transform: LogitTransform,
        tile: TileShape,
        kernels: TileKernels,
    ) -> tuple[Tensor, ...]:
        """Statistics; keeps the inputs and two `[K]` normalisers."""
        ctx.transform, ctx.tile, ctx.kernels, ctx.product_dtype = transform, tile, kernels, product_dtype(hidden, weight)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = TiledLogits(hidden.to(ctx.product_dtype), weight, bias, transform, tile)
            running = RunningStats(target_ids, logits.sum_dtype, kernels)
            buffer, scratch = logits.buffer(), logits.buffer()
            for columns in logits.column_tiles():
                for rows in logits.row_slices():
                    running.update(rows, columns.columns, logits.of(rows, columns, buffer), scratch)
            stats = running.finish()
        ctx.save_for_backward(hidden, weight, bias, target_ids, stats.maximum, stats.exp_sum)
        sum_sq_probs = stats.other_sq_probs + stats.target_probs.square()
        detached = stats.entropy, sum_sq_probs, stats.top1_probs, stats.is_top1, stats.other_sq_probs
        ctx.mark_non_differentiable(*detached)
        return stats.logps, *detached

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_logps: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs that need one."""
        hidden, weight, bias, *_rest = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            logits = TiledLogits(hidden.to(ctx.product_dtype), weight, bias, ctx.transform, ctx.tile)
            gradients = _Gradients(ctx, logits)
            buffer = logits.buffer()
            for columns in logits.column_tiles():
                gradients.start(columns)
                for rows in logits.row_slices():
                    at_logits = _gradient_at_logits(ctx, logits, rows, columns, grad_logps, buffer)
                    gradients.add(rows, columns, at_logits)
                gradients.finish(columns)
        return gradients.results()


def _gradient_at_logits(
    ctx: _Context, logits: TiledLogits, rows: slice, tile: ColumnTile, grad_logps: Tensor, buffer: Tensor
) -> Tensor:
    """`[r, n]` gradient at the output of the linear layer, in the type in which the products take it."""
    *_, target_ids, maximum, exp_sum = ctx.saved_tensors
    column, inside = local_targets(target_ids[rows], tile.columns)
    upstream = grad_logps[rows]
    factor, own = -upstream / exp_sum[rows], upstream * inside
    values = logits.of(rows, tile, buffer)
    return ctx.kernels.gradient(values, maximum[rows], factor, column, own, *ctx.transform, ctx.product_dtype)


class _Gradients:
    """Sums of the gradients over tiles, in the type of the sums, for the inputs that need one."""

    def __init__(self, ctx: _Context, logits: TiledLogits) -> None:
        self._hidden_input, self._weight_input, self._bias_input, *_ = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        self._hidden_rows, self._sum_dtype = logits.hidden, logits.sum_dtype
        self._hidden = torch.zeros_like(logits.hidden, dtype=self._sum_dtype) if needs_hidden else None
        self._weight = torch.empty_like(self._weight_input) if needs_weight else None
        self._bias = torch.empty_like(self._bias_input) if needs_bias and self._bias_input is not None else None

    def start(self, tile: ColumnTile) -> None:
        """Begin a column tile: its share of the weight and bias gradients starts at zero."""
        self._weight_tile = torch.zeros_like(tile.weight, dtype=self._sum_dtype)
        self._bias_tile = self._weight_tile.new_zeros(len(tile.weight))

    def add(self, rows: slice, tile: ColumnTile, gradient: Tensor) -> None:
        """Take in the gradient at a tile's logits."""
        if self._hidden is not None:
            multiply(gradient, tile.weight, self._hidden[rows], accumulate=True)
        if self._weight is not None:
            multiply(gradient.T, self._hidden_rows[rows], self._weight_tile, accumulate=True)
        if self._bias is not None:
            self._bias_tile += gradient.sum(0)

    def finish(self, tile: ColumnTile) -> None:
        """End a column tile: its sums are complete and may be rounded to the type of the parameters."""
        if self._weight is not None:
            self._weight[tile.columns] = self._weight_tile
        if self._bias is not None:
            self._bias[tile.columns] = self._bias_tile

    def results(self) -> tuple[Tensor | None, ...]:
        """One entry for each input of `TiledLogProbs`."""
        hidden = None if self._hidden is None else self._hidden.to(self._hidden_input.dtype)
        return hidden, self._weight, self._bias, None, None, None, None
