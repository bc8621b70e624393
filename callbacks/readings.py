"""What a diagnostic reads off one optimizer step: means over microbatches and ranks, and the spread of per-item values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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
    """Collects values without a device sync; `take` moves everything in one transfer.

    Ranks may hold different names: they are merged by name.

    Args:
        keeps: whether the per-item values of a name are kept for its spread.
    """

    def __init__(self, keeps: Callable[[str], bool] = lambda _: False) -> None:
        self._keeps = keeps
        self._counted: dict[str, Counted] = {}
        self._kept: dict[str, list[Tensor]] = {}

    def update(self, values: Values) -> None:
        """Add values; n may differ from name to name, and be 0."""
        for name, value in values.items():
            if isinstance(value, Tensor) and self._keeps(name) and value.numel():
                self._kept.setdefault(name, []).append(value.detach())
            added = _counted(value)
            before = self._counted.get(name)
            self._counted[name] = added if before is None else Counted(before.total + added.total, before.number + added.number)

    def take(self) -> Reading:
        """Everything since the last call, reduced over ranks; leaves nothing behind. Call it on every rank."""
        sums = self._to_host()
        self._counted, self._kept = {}, {}
        shares: list[_Sums | None] = [sums]
        if distributed.is_available() and distributed.is_initialized():
            shares = [None] * distributed.get_world_size()
            distributed.all_gather_object(shares, sums)
        return _merge([share for share in shares if share is not None])

    def _to_host(self) -> _Sums:
        if not self._counted:
            return _Sums({}, {})
        kept = {name: torch.cat(parts) for name, parts in self._kept.items()}
        counted = [part for value in self._counted.values() for part in value]
        device = counted[0].device
        spread = [values.to(device).double() for values in kept.values()]
        host = torch.cat([torch.stack([part.to(device) for part in counted]), *spread]).cpu()
        totals = host[: len(counted)].reshape(-1, 2).tolist()
        parts = torch.split(host[len(counted) :], [values.numel() for values in spread])
        return _Sums(
            {name: (total, count) for name, (total, count) in zip(self._counted, totals, strict=True)},
            dict(zip(kept, parts, strict=True)),
        )


def _counted(value: Tensor | Counted) -> Counted:
    if isinstance(value, Counted):
        return Counted(value.total.detach().double(), value.number.double())
    total = value.detach().double().sum()
    return Counted(total, torch.full_like(total, value.numel()))


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
