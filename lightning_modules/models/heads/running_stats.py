"""Statistics of a softmax over the vocabulary, updated tile by tile (online softmax, arXiv 1805.02867).

For every row, over the tokens OTHER than the target y seen so far, with m their largest logit:
    exp_sum  = sum e^(z - m)
    weighted = sum e^(z - m) (z - m)
    squares  = sum e^(2 (z - m))
A new maximum m' rescales them by f = e^(m - m'), f and f^2, after `weighted` was shifted by (m - m') exp_sum. The target joins at
the end. Kept apart, it leaves 1 - p_y and sum_{v != y} p_v^2 exact where p_y is near 1 and differences of sums would be rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.models.heads.tile_kernels import TileKernels, TileSums


class RunningStats:
    """Accumulates over tiles for K rows, always cut into the same slices.

    Args:
        target_ids: `[K]` int64.
        dtype: type of the sums.
        kernels: what sums a tile.
    """

    def __init__(self, target_ids: Tensor, dtype: torch.dtype, kernels: TileKernels) -> None:
        self._target_ids, self._dtype, self._kernels = target_ids, dtype, kernels
        self._slices: dict[int, TileSums] = {}

    def update(self, rows: slice, columns: slice, logits: Tensor, scratch: Tensor) -> None:
        """Take in the `[r, n]` tile `logits` (destroyed), with room for as much in `scratch` where the kernels need it."""
        target_ids = self._target_ids[rows]
        before = self._slices.get(rows.start) or self._nothing_seen(target_ids)
        column = target_ids - columns.start
        self._slices[rows.start] = TileSums(*self._kernels.update(logits, column, scratch, before))

    def _nothing_seen(self, target_ids: Tensor) -> TileSums:
        zeros = torch.zeros(5, len(target_ids), dtype=self._dtype, device=target_ids.device)
        # Finite, unlike -inf, so that a rescaling before the first token is 0 * finite and not 0 * inf.
        zeros[0] = torch.finfo(self._dtype).min
        return TileSums(*zeros)

    def finish(self) -> SoftmaxStats:
        """Add the targets and normalise."""
        seen = TileSums(*map(torch.cat, zip(*self._slices.values(), strict=True)))
        maximum = torch.maximum(seen.maximum, seen.target)
        shift = seen.maximum - maximum
        factor = shift.exp()
        others = seen.exp_sum * factor
        target_shift = seen.target - maximum
        target = target_shift.exp()
        exp_sum = others + target
        is_top1 = seen.target >= seen.maximum
        # log1p keeps the digits of a sum that is 1 and a little.
        log_sum = torch.where(is_top1, others.log1p(), exp_sum.log())
        weighted = (seen.weighted + shift * seen.exp_sum) * factor + target * target_shift
        return SoftmaxStats(
            logps=target_shift - log_sum,
            entropy=(log_sum - weighted / exp_sum).clamp_min(0),
            other_sq_probs=seen.squares * factor.square() / exp_sum.square(),
            target_probs=target / exp_sum,
            top1_probs=exp_sum.reciprocal(),
            is_top1=is_top1,
            maximum=maximum,
            exp_sum=exp_sum,
        )


@dataclass(frozen=True, eq=False)
class SoftmaxStats:
    """`[K]` each: what is known of p once all tiles were seen."""

    logps: Tensor
    """log p_y."""
    entropy: Tensor
    """-sum_v p_v log p_v."""
    other_sq_probs: Tensor
    """sum_{v != y} p_v^2."""
    target_probs: Tensor
    """p_y."""
    top1_probs: Tensor
    """max_v p_v."""
    is_top1: Tensor
    """Whether y has the largest logit."""
    maximum: Tensor
    """m = max_v z_v."""
    exp_sum: Tensor
    """sum_v e^(z_v - m): p_v = e^(z_v - m) / exp_sum."""
