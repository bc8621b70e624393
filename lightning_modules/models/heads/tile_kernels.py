"""Elementwise operations on a tile of logits in two versions: plain PyTorch (in place), and `torch.compile`.

Written out, a tile is read about ten times: cheap where it stays in a cache, as on the CPU, slow on a GPU, where it does not.
Fused, it is read twice in forward and once in backward, where its gradient leaves in the type in which the products take it; and a
tile costs the host one call a pass, which on a GPU is what the step's time consists of.

Shape legend: a tile has r rows (scored positions) and n vocabulary columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

_log = logging.getLogger(__name__)


class TileSums(NamedTuple):
    """`[r]` each, over the tokens other than the target that were seen so far; m is their largest logit."""

    maximum: Tensor
    """m."""
    exp_sum: Tensor
    """sum e^(z - m)."""
    weighted: Tensor
    """sum e^(z - m) (z - m)."""
    squares: Tensor
    """sum e^(2 (z - m))."""
    target: Tensor
    """Logit of the target, once it was seen."""


@dataclass(frozen=True)
class TileKernels:
    """The two passes over a tile."""

    name: str
    update: Callable[[Tensor, Tensor, Tensor, TileSums], tuple[Tensor, ...]]
    """(logits `[r, n]` (destroyed), column of the target `[r]`, outside [0, n) where the tile does not have it, scratch
    `[>= r n]`, sums so far) -> the fields of `TileSums` with this tile."""
    gradient: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, torch.dtype], Tensor]
    """(logits `[r, n]` (destroyed), m over all tiles `[r]`, factor of e^(z - m) `[r]`, column of the target `[r]` as above, what
    its entry gets on top `[r]`, soft-cap `[]`, type) -> `[r, n]` gradient before the soft-cap."""
    needs_scratch: bool
    """Whether `update` writes to its scratch; otherwise it may be empty."""


def _written_update(logits: Tensor, column: Tensor, scratch: Tensor, sums: TileSums) -> tuple[Tensor, ...]:
    place, inside = _within(column, logits.shape[1])
    target = logits.gather(1, place[:, None])
    logits.scatter_(1, place[:, None], target.masked_fill(inside[:, None], torch.finfo(logits.dtype).min))
    maximum = torch.maximum(sums.maximum, logits.amax(1))
    logits -= maximum[:, None]
    exps = torch.exp(logits, out=scratch[: logits.numel()].view_as(logits))
    own = torch.linalg.vecdot(exps, logits), torch.linalg.vecdot(exps, exps)
    return _joined(sums, TileSums(maximum, exps.sum(1), *own, target.squeeze(1)), inside)


def _joined(before: TileSums, tile: TileSums, inside: Tensor) -> TileSums:
    """What was seen, rescaled to the new maximum, with a tile's own sums."""
    shift = before.maximum - tile.maximum
    factor = shift.exp()
    return TileSums(
        tile.maximum,
        before.exp_sum * factor + tile.exp_sum,
        (before.weighted + shift * before.exp_sum) * factor + tile.weighted,
        before.squares * factor.square() + tile.squares,
        torch.where(inside, tile.target, before.target),
    )


def _within(column: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    """`[r]` some column of the tile, the target's where it has it; `[r]` bool whether it has it."""
    place = column.clamp(0, num_columns - 1)
    return place, place == column


def _written_gradient(
    logits: Tensor, maximum: Tensor, factor: Tensor, column: Tensor, own: Tensor, softcap: Tensor | None, dtype: torch.dtype
) -> Tensor:
    slope = None if softcap is None else 1 - (logits / softcap).square()
    place, inside = _within(column, logits.shape[1])
    gradient = logits.sub_(maximum[:, None]).exp_().mul_(factor[:, None])
    gradient.scatter_add_(1, place[:, None], (own * inside)[:, None])
    return (gradient if slope is None else gradient.mul_(slope)).to(dtype)


def fusible_update(logits: Tensor, column: Tensor, scratch: Tensor, sums: TileSums) -> tuple[Tensor, ...]:
    """`TileKernels.update` without writing to memory, for a compiler."""
    is_target = torch.arange(logits.shape[1], device=logits.device) == column[:, None]
    others = logits.masked_fill(is_target, torch.finfo(logits.dtype).min)
    maximum = torch.maximum(sums.maximum, others.amax(1))
    centred = others - maximum[:, None]
    exps = centred.exp()
    target = logits.masked_fill(~is_target, 0.0).sum(1)
    tile = TileSums(maximum, exps.sum(1), (exps * centred).sum(1), exps.square().sum(1), target)
    return _joined(sums, tile, (column >= 0) & (column < logits.shape[1]))


def fusible_gradient(
    logits: Tensor, maximum: Tensor, factor: Tensor, column: Tensor, own: Tensor, softcap: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`TileKernels.gradient` without writing to memory, for a compiler."""
    is_column = torch.arange(logits.shape[1], device=logits.device) == column[:, None]
    gradient = (logits - maximum[:, None]).exp() * factor[:, None]
    gradient = torch.where(is_column, gradient + own[:, None], gradient)
    return (gradient if softcap is None else gradient * (1 - (logits / softcap).square())).to(dtype)


WRITTEN = TileKernels("written out", _written_update, _written_gradient, needs_scratch=True)


@cache
def fused() -> TileKernels:
    """Compiled for any tile, at the first call."""
    update, gradient = torch.compile(fusible_update, dynamic=True), torch.compile(fusible_gradient, dynamic=True)
    return TileKernels("fused", update, gradient, needs_scratch=False)


@cache
def kernels_for(device_type: str) -> TileKernels:
    """The faster ones that work on a device: fused on a GPU that has Triton, once they passed their self-test."""
    if device_type != "cuda" or find_spec("triton") is None:
        return WRITTEN
    if (reason := failure(fused(), device_type)) is not None:
        _log.warning("The output head runs without fused kernels: %s.", reason)
        return WRITTEN
    return fused()


def failure(kernels: TileKernels, device_type: str) -> str | None:
    """The fault of kernels on a device, or None if they agree with float64 on the CPU."""
    try:
        errors = [
            (_largest_error(kernels, device_type, case, softcap), case.tolerance) for case in _CASES for softcap in (None, 3.0)
        ]
    except Exception as error:  # A compiler may fail in any way it likes; whatever it is, the other kernels can do the work.
        return f"they failed their self-test ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    # Not `wrong > tolerance`, which NaN would pass.
    wrong = [error for error, tolerance in errors if not error <= tolerance]
    return f"they failed their self-test (relative error {wrong[0]:.2g})" if wrong else None


class _Case(NamedTuple):
    """A made-up tile."""

    rows: int
    columns: int
    gradient_dtype: torch.dtype
    tolerance: float
    """Largest relative error (norms)."""


_CASES = (_Case(37, 211, torch.float32, 1e-4), _Case(129, 8192, torch.bfloat16, 5e-3))
"""A tile that no kernel divides evenly; the columns and the type of gradient of training in half precision."""


def _largest_error(kernels: TileKernels, device_type: str, case: _Case, softcap: float | None) -> float:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(case.rows, case.columns, generator=generator)
    before, factor, own = torch.randn(3, case.rows, generator=generator)
    column = torch.randint(-case.columns // 2, 3 * case.columns // 2, (case.rows,), generator=generator)
    results = []
    for these, device, dtype in ((kernels, device_type, torch.float32), (WRITTEN, "cpu", torch.float64)):
        rows = [tensor.to(device, dtype) for tensor in (before, factor, own)]
        place, cap = column.to(device), None if softcap is None else torch.tensor(softcap, device=device, dtype=dtype)
        scratch = torch.empty(logits.numel(), device=device, dtype=dtype)
        seen = TileSums(rows[0], *(row.abs() for row in (*rows, rows[0])))
        sums = these.update(logits.to(device, dtype, copy=True), place, scratch, seen)
        maximum = torch.full_like(rows[0], 10.0)
        out_dtype = case.gradient_dtype if dtype == torch.float32 else dtype
        gradient = these.gradient(logits.to(device, dtype, copy=True), maximum, rows[1], place, rows[2], cap, out_dtype)
        results.append([result.double().cpu() for result in (*sums, gradient)])
    errors = [float((got - want).norm() / want.norm()) for got, want in zip(*results, strict=True)]
    # max() would pass over a nan that is not first.
    return max(errors) if all(error == error for error in errors) else float("nan")
