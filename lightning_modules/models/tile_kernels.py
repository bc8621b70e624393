"""What is done to a tile of logits between matrix products: written out (in place, for caches), or fused by `torch.compile`.

Written out, a tile is read about ten times: cheap where it stays in a cache, as on the CPU, dear on a GPU, where it does not.
Fused, it is read twice in forward and once in backward, where its gradient leaves in the type in which the products take it.

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

from lightning_modules.models.tiled_logits import LogitTransform

_log = logging.getLogger(__name__)


class TileSums(NamedTuple):
    """`[r]` each, over the tokens of a tile other than the target; m is their largest logit, or the given one if that is larger."""

    maximum: Tensor
    """m."""
    exp_sum: Tensor
    """sum e^(z - m)."""
    weighted: Tensor
    """sum e^(z - m) (z - m)."""
    squares: Tensor
    """sum e^(2 (z - m))."""
    target: Tensor
    """Logit of the target where the tile has it; any number elsewhere."""


@dataclass(frozen=True)
class TileKernels:
    """The two passes over a tile."""

    name: str
    sums: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
    """(logits `[r, n]` (destroyed), column of the target `[r]`, whether it is in the tile `[r]`, largest logit before `[r]`,
    scratch `[>= r n]`) -> the fields of `TileSums`."""
    gradient: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float, float | None, torch.dtype], Tensor]
    """(logits `[r, n]` (destroyed), m over all tiles `[r]`, factor of e^(z - m) `[r]`, column of the target `[r]`, what its entry
    gets on top `[r]`, scale, soft-cap, type) -> `[r, n]` gradient at the output of the linear layer."""


def _written_sums(logits: Tensor, column: Tensor, inside: Tensor, before: Tensor, scratch: Tensor) -> tuple[Tensor, ...]:
    target = logits.gather(1, column[:, None])
    logits.scatter_(1, column[:, None], target.masked_fill(inside[:, None], torch.finfo(logits.dtype).min))
    maximum = torch.maximum(before, logits.amax(1))
    logits -= maximum[:, None]
    exps = torch.exp(logits, out=scratch[: logits.numel()].view_as(logits))
    return maximum, exps.sum(1), torch.linalg.vecdot(exps, logits), torch.linalg.vecdot(exps, exps), target.squeeze(1)


def _written_gradient(
    logits: Tensor,
    maximum: Tensor,
    factor: Tensor,
    column: Tensor,
    own: Tensor,
    scale: float,
    softcap: float | None,
    dtype: torch.dtype,
) -> Tensor:
    slope = LogitTransform(scale, softcap).slope(logits)
    gradient = logits.sub_(maximum[:, None]).exp_().mul_(factor[:, None])
    gradient.scatter_add_(1, column[:, None], own[:, None])
    return (gradient if isinstance(slope, float) and slope == 1.0 else gradient.mul_(slope)).to(dtype)


def fusible_sums(logits: Tensor, column: Tensor, inside: Tensor, before: Tensor, scratch: Tensor) -> tuple[Tensor, ...]:
    """`TileKernels.sums` without writing to memory, for a compiler."""
    is_target = (torch.arange(logits.shape[1], device=logits.device) == column[:, None]) & inside[:, None]
    others = logits.masked_fill(is_target, torch.finfo(logits.dtype).min)
    maximum = torch.maximum(before, others.amax(1))
    centred = others - maximum[:, None]
    exps = centred.exp()
    target = logits.masked_fill(~is_target, 0.0).sum(1)
    return maximum, exps.sum(1), (exps * centred).sum(1), exps.square().sum(1), target


def fusible_gradient(
    logits: Tensor,
    maximum: Tensor,
    factor: Tensor,
    column: Tensor,
    own: Tensor,
    scale: float,
    softcap: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """`TileKernels.gradient` without writing to memory, for a compiler."""
    is_column = torch.arange(logits.shape[1], device=logits.device) == column[:, None]
    gradient = (logits - maximum[:, None]).exp() * factor[:, None]
    gradient = torch.where(is_column, gradient + own[:, None], gradient)
    return (gradient * LogitTransform(scale, softcap).slope(logits)).to(dtype)


WRITTEN = TileKernels("written out", _written_sums, _written_gradient)


@cache
def fused() -> TileKernels:
    """Compiled for any tile, at the first call."""
    return TileKernels("fused", torch.compile(fusible_sums, dynamic=True), torch.compile(fusible_gradient, dynamic=True))


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
    """What is wrong with kernels on a device, or None if they give what is written out, in float64 on the CPU."""
    try:
        wrong = max(_largest_error(kernels, device_type, softcap) for softcap in (None, 3.0))
    except Exception as error:  # A compiler may fail in any way it likes; whatever it is, the other kernels can do the work.
        return f"they failed their self-test ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    return None if wrong <= 1e-4 else f"they failed their self-test (relative error {wrong:.2g})"


def _largest_error(kernels: TileKernels, device_type: str, softcap: float | None) -> float:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(37, 211, generator=generator)
    before, factor, own = torch.randn(3, 37, generator=generator)
    column = torch.randint(211, (37,), generator=generator)
    inside = torch.rand(37, generator=generator) < 0.5
    results = []
    for these, device, dtype in ((kernels, device_type, torch.float32), (WRITTEN, "cpu", torch.float64)):
        rows = [tensor.to(device, dtype) for tensor in (before, factor, own)]
        places = column.to(device), inside.to(device)
        sums = these.sums(logits.to(device, dtype, copy=True), *places, rows[0], torch.empty(37 * 211, device=device, dtype=dtype))
        maximum = torch.full_like(rows[0], 10.0)
        gradient = these.gradient(logits.to(device, dtype, copy=True), maximum, rows[1], places[0], rows[2], 0.5, softcap, dtype)
        kept = (*sums[:4], sums[4] * places[1], gradient)
        results.append([result.double().cpu() for result in kept])
    errors = [float((got - want).norm() / want.norm()) for got, want in zip(*results, strict=True)]
    # max() would pass over a nan that is not first.
    return max(errors) if all(error == error for error in errors) else float("nan")
