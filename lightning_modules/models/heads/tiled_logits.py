"""The logits of a head, one tile of rows and vocabulary columns at a time.

Shape legend: K scored positions, H hidden width, V vocabulary; a tile has r rows and n columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class LogitTransform(NamedTuple):
    """The changes that a model makes to its logits after the linear layer."""

    scale: float = 1.0
    """Factor (Cohere multiplies, Granite divides)."""
    softcap: float | None = None
    """Soft-cap c: z -> c tanh(z / c) (Gemma 2, arXiv 2408.00118 section 2)."""


class TileShape(NamedTuple):
    """Largest tile."""

    rows: int
    columns: int


CPU_TILE = TileShape(512, 1024)
"""2 MiB of float32: stays in the second-level cache between the products and the exponentials (see docs/results/speed)."""
DEVICE_TILE = TileShape(16384, 8192)
"""512 MiB of float32 at the most: all rows of a usual batch, so that the host makes few calls, each at full speed."""


class ColumnTile(NamedTuple):
    """Some columns of the output layer, in the type the products take."""

    columns: slice
    weight: Tensor
    """`[n, H]`."""
    bias: Tensor | None
    """`[n]`."""


@dataclass(frozen=True)
class TiledLogits:
    """Logits z = cap(scale * (h W^T + b)) by tiles, summed in float32 (float64 for float64 inputs) whatever the inputs are."""

    hidden: Tensor
    """`[K, H]`, in the type the products take."""
    weight: Tensor
    """`[V, H]`."""
    bias: Tensor | None
    """`[V]`."""
    transform: LogitTransform
    tile: TileShape

    @property
    def sum_dtype(self) -> torch.dtype:
        """Type of logits, statistics and accumulated gradients."""
        return torch.promote_types(self.hidden.dtype, torch.float32)

    def column_tiles(self) -> Iterator[ColumnTile]:
        """All columns, in order. The weight is read (and cast) once."""
        for start in range(0, len(self.weight), self.tile.columns):
            columns = slice(start, min(start + self.tile.columns, len(self.weight)))
            bias = None if self.bias is None else self.bias[columns].to(self.sum_dtype)
            yield ColumnTile(columns, self.weight[columns].to(self.hidden.dtype), bias)

    def row_slices(self) -> Iterator[slice]:
        """All rows, in order; one empty slice where there are none."""
        total = len(self.hidden)
        return (slice(start, min(start + self.tile.rows, total)) for start in range(0, max(total, 1), self.tile.rows))

    def of(self, rows: slice, tile: ColumnTile, out: Tensor) -> Tensor:
        """`[r, n]` logits, in the front of the buffer `out`."""
        shape = (rows.stop - rows.start, len(tile.weight))
        logits = out[: shape[0] * shape[1]].view(shape)
        multiply(self.hidden[rows], tile.weight.T, logits)
        if tile.bias is not None:
            logits += tile.bias
        if self.transform.scale != 1.0:
            logits *= self.transform.scale
        if self.transform.softcap is not None:
            logits.div_(self.transform.softcap).tanh_().mul_(self.transform.softcap)
        return logits

    def buffer(self) -> Tensor:
        """Room for one tile."""
        rows, columns = min(self.tile.rows, len(self.hidden)), min(self.tile.columns, len(self.weight))
        return self.hidden.new_empty(rows * columns, dtype=self.sum_dtype)


def multiply(left: Tensor, right: Tensor, out: Tensor, *, accumulate: bool = False) -> None:
    """Write (or add) left @ right to `out`, without rounding the sums of half-precision products."""
    if left.dtype == out.dtype:
        torch.addmm(out, left, right, beta=int(accumulate), out=out)
    elif accumulate:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)
    else:
        torch.mm(left, right, out_dtype=out.dtype, out=out)


def product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Type in which the products take their factors.

    Autocast's or the inputs' own on an accelerator; at least float32 on the CPU, where half-precision products are slower.
    """
    device = hidden.device.type
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if device == "cpu":
        return torch.promote_types(dtype, torch.float32)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
