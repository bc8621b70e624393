"""Differentiable log-probs of targets from hidden states; logits are computed tile by tile, and again in backward.

log p_y = z_y - logsumexp(z). Backward of g = dL/dlog p_y at the logits: g (onehot(y) - p), then through soft-cap and scale.
Four matrix products in all; besides its results and gradients it holds two tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lightning_modules.models.heads.running_stats import RunningStats
from lightning_modules.models.heads.tile_gradients import HeadInputs, TileGradients
from lightning_modules.models.heads.tile_kernels import TileKernels
from lightning_modules.models.heads.tiled_logits import ColumnTile, LogitTransform, TiledLogits, TileShape, product_dtype


class _Context(FunctionCtx):
    """The tensors that autograd keeps between forward and backward."""

    transform: LogitTransform
    tile: TileShape
    kernels: TileKernels
    product_dtype: torch.dtype
    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]


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
            buffer = logits.buffer()
            scratch = logits.buffer() if kernels.needs_scratch else buffer[:0]
            for columns in logits.column_tiles():
                for rows in logits.row_slices():
                    running.update(rows, columns.columns, logits.of(rows, columns, buffer), scratch)
            stats = running.finish()
        ctx.save_for_backward(hidden, weight, bias, target_ids, stats.maximum, stats.exp_sum)  # type: ignore[arg-type]  # None is kept too
        sum_sq_probs = stats.other_sq_probs + stats.target_probs.square()
        detached = stats.entropy, sum_sq_probs, stats.top1_probs, stats.is_top1, stats.other_sq_probs
        ctx.mark_non_differentiable(*detached)
        return stats.logps, *detached

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_logps: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs that need one."""
        hidden, weight, bias, *_rest = ctx.saved_tensors
        inputs = HeadInputs(hidden, weight, bias)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = TiledLogits(hidden.to(ctx.product_dtype), weight, bias, ctx.transform, ctx.tile)
            gradients, at_logits = (
                TileGradients(inputs, ctx.needs_input_grad[:3], logits),
                _GradientAtLogits(ctx, logits, grad_logps),
            )
            for columns in logits.column_tiles():
                gradients.start(columns)
                for rows in logits.row_slices():
                    gradients.add(rows, columns, at_logits(rows, columns))
                gradients.finish(columns)
        return *gradients.results(), None, None, None, None


class _GradientAtLogits:
    """`[r, n]` gradient at the output of the linear layer, in the type in which the products take it."""

    def __init__(self, ctx: _Context, logits: TiledLogits, grad_logps: Tensor) -> None:
        *_, self._target_ids, self._maximum, exp_sum = ctx.saved_tensors
        self._kernels, self._dtype = ctx.kernels, ctx.product_dtype
        self._logits, self._buffer = logits, logits.buffer()
        self._own = grad_logps * ctx.transform.scale
        self._factor = -self._own / exp_sum
        softcap = ctx.transform.softcap
        # A number would be read off by the compiled pass at every tile.
        self._softcap = None if softcap is None else exp_sum.new_full((), softcap)

    def __call__(self, rows: slice, tile: ColumnTile) -> Tensor:
        column = self._target_ids[rows] - tile.columns.start
        values = self._logits.of(rows, tile, self._buffer)
        of_rows = self._maximum[rows], self._factor[rows], column, self._own[rows]
        return self._kernels.gradient(values, *of_rows, self._softcap, self._dtype)
