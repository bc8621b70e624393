"""Averages of one optimizer step for a diagnostic, over microbatches and ranks, and the spread of per-item values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed

QUANTILES = (0.05, 0.5, 0.95)
"""Quantiles written beside a mean, as `<name>/p5`, `<name>/p50`, `<name>/p95`."""


class Counted(NamedTuple):
    """A sum whose number of items is known on the device only."""

    total: Tensor
    """`[]` sum over the items."""
    number: Tensor
    """`[]` number of items, 0 where there are none."""


Values = Mapping[str, Tensor | Counted]
"""`{metric: [n] per-item values, or their sum and count}`, detached."""


@dataclass(frozen=True)
class Reading:
    """The values of one optimizer step, on the host and over all ranks."""

    means: dict[str, float]
    """Mean of every name that counted at least one item."""
    kept: dict[str, Tensor]
    """`[n]` float64 per-item values of the names whose spread was asked for."""

    def quantiles(self) -> dict[str, float]:
        """`{name/p5, name/p50, name/p95}` of the kept names."""
        levels = torch.tensor(QUANTILES, dtype=torch.float64)
        return {
            f"{name}/p{round(100 * level)}": value
            for name, values in self.kept.items()
            for level, value in zip(QUANTILES, torch.quantile(values, levels).tolist(), strict=True)
        }


class _Sums(NamedTuple):
    """One rank's share, on the host."""

    totals: dict[str, tuple[float, float]]
    kept: dict[str, Tensor]


class Readings:
    """Collects values as they are, without an operation on the device; `take` moves them in one copy and sums on the host.

    Ranks may hold different names: they are merged by name.

    Args:
        keeps: whether the per-item values of a name are kept for its spread.
    """

    def __init__(self, keeps: Callable[[str], bool] = lambda _: False) -> None:
        self._keeps = keeps
        self._values: dict[str, list[Tensor | Counted]] = {}

    def update(self, values: Values) -> None:
        """Add values; n may differ from name to name, and be 0."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> Reading:
        """Everything since the last call, reduced over ranks; leaves nothing behind. Call it on every rank."""
        sums = self._to_host()
        self._values = {}
        shares: list[_Sums | None] = [sums]
        if distributed.is_available() and distributed.is_initialized():
            shares = [None] * distributed.get_world_size()
            distributed.all_gather_object(shares, sums)
        return _merge([share for share in shares if share is not None])

    def _to_host(self) -> _Sums:
        on_host = _moved([part for parts in self._values.values() for value in parts for part in _parts(value)])
        sums = _Sums({}, {})
        for name, parts in self._values.items():
            arrays = [[next(on_host) for _ in _parts(value)] for value in parts]
            total = sum(float(array[0].sum()) for array in arrays)
            count = sum(float(array[1][0]) if len(array) > 1 else len(array[0]) for array in arrays)
            sums.totals[name] = total, count
            items = [array[0] for array in arrays if len(array) == 1]
            if self._keeps(name) and any(map(len, items)):
                sums.kept[name] = torch.from_numpy(np.concatenate(items))
        return sums


def _parts(value: Tensor | Counted) -> Sequence[Tensor]:
    return value if isinstance(value, Counted) else (value,)


def _moved(tensors: Sequence[Tensor]) -> Iterator[npt.NDArray[np.float64]]:
    """The same numbers on the host, flat and in order: one copy from each device, as bytes of all types."""
    groups: dict[torch.device, list[int]] = {}
    for number, tensor in enumerate(tensors):
        groups.setdefault(tensor.device, []).append(number)
    moved: dict[int, npt.NDArray[np.float64]] = {}
    for numbers in groups.values():
        flat = [tensors[number].detach().reshape(-1).contiguous() for number in numbers]
        parts = torch.cat([part.view(torch.uint8) for part in flat]).cpu().split([part.nbytes for part in flat])
        # A copy of each, for bytes may begin where a number of its type must not.
        typed = [part.clone().view(like.dtype) for part, like in zip(parts, flat, strict=True)]
        moved |= zip(numbers, [values.double().numpy() for values in typed], strict=True)
    return iter([moved[number] for number in range(len(tensors))])


def _merge(shares: list[_Sums]) -> Reading:
    # Not a set: the order of the names is the order of the columns a reader sees.
    names = dict.fromkeys(name for share in shares for name in share.totals)
    means = {}
    for name in names:
        total, count = map(sum, zip(*(share.totals[name] for share in shares if name in share.totals), strict=True))
        if count:
            means[name] = total / count
    kept_names = dict.fromkeys(name for share in shares for name in share.kept)
    kept = {name: torch.cat([share.kept[name] for share in shares if name in share.kept]) for name in kept_names}
    return Reading(means, kept)
