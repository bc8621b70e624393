"""Statistics of a softmax over the vocabulary from one tile of logits after another (online softmax, arXiv 1805.02867).

With m the running maximum and sums over the columns seen so far, for every row:
    exp_sum  = sum e^(z - m)
    weighted = sum e^(z - m) (z - m)        -> entropy = log exp_sum - weighted / exp_sum
    squares  = sum e^(2 (z - m))            -> sum p^2 = squares / exp_sum^2
A new maximum m' rescales them by f = e^(m - m'), f and f^2, and shifts `weighted` by (m - m') exp_sum first.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RunningStats:
    """Accumulates over tiles for K rows.

    Args:
        target_ids: `[K]` int64.
        dtype: type of the sums.
    """

    def __init__(self, target_ids: Tensor, dtype: torch.dtype) -> None:
        self._target_ids = target_ids
        zeros = torch.zeros(5, len(target_ids), dtype=dtype, device=target_ids.device)
        self._maximum, self._exp_sum, self._weighted, self._squares, self._target = zeros.unbind()
        # Finite, unlike -inf, so that the first rescaling is 0 * finite and not 0 * inf.
        self._maximum.fill_(torch.finfo(dtype).min)

    def update(self, rows: slice, columns: slice, logits: Tensor, scratch: Tensor) -> None:
        """Take in the `[r, n]` tile `logits` (destroyed), with room for as much in `scratch`."""
        self._take_targets(rows, columns, logits)
        before, exp_sum = self._maximum[rows], self._exp_sum[rows]
        maximum = torch.maximum(before, logits.amax(1))
        shift = before - maximum
        factor = shift.exp()
        logits -= maximum[:, None]
        exps = torch.exp(logits, out=scratch[: logits.numel()].view_as(logits))
        self._weighted[rows] = (self._weighted[rows] + shift * exp_sum) * factor + torch.linalg.vecdot(exps, logits)
        self._squares[rows] = self._squares[rows] * factor.square() + torch.linalg.vecdot(exps, exps)
        self._exp_sum[rows] = exp_sum * factor + exps.sum(1)
        self._maximum[rows] = maximum

    def _take_targets(self, rows: slice, columns: slice, logits: Tensor) -> None:
        column, inside = local_targets(self._target_ids[rows], columns)
        values = logits.gather(1, column[:, None]).squeeze(1)
        self._target[rows] = torch.where(inside, values, self._target[rows])

    def log_normaliser(self) -> Tensor:
        """`[K]` log sum_v e^z_v."""
        return self._maximum + self._exp_sum.log()

    def results(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`[K]` each: log p_y, entropy, sum p^2, maximum of p, whether y has the maximum."""
        logps = self._target - self.log_normaliser()
        # Rounding may leave an entropy a hair below zero where one token has all the mass.
        entropy = (self._exp_sum.log() - self._weighted / self._exp_sum).clamp_min(0)
        sum_sq_probs = self._squares / self._exp_sum.square()
        return logps, entropy, sum_sq_probs, self._exp_sum.reciprocal(), self._target >= self._maximum


def local_targets(target_ids: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """`[r]` column of each target within the tile (some column of it for the others), `[r]` bool whether it lies in the tile."""
    local = target_ids - columns.start
    inside = (local >= 0) & (target_ids < columns.stop)
    return local.clamp(0, columns.stop - columns.start - 1), inside
