"""Means over everything since the last reading (microbatches, steps, ranks), weighted by count, with one collective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed


class CountedMeans:
    """Running sums and counts of named per-unit values.

    `update` costs no device sync; `compute` reads all names at once: one collective over ranks, one transfer. Every rank
    must have updated with the same names in the same order; an empty tensor is a legal value and weighs nothing.
    """

    def __init__(self) -> None:
        """Empty; names are taken from the updates."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def update(self, values: Mapping[str, Tensor], *, counts: bool = True) -> None:
        """Add `{name: [n] values}` (n may differ from name to name, and be 0).

        Args:
            values: of this rank.
            counts: False for names alone: of values that another rank counts.
        """
        for name, given in values.items():
            value = given if counts else given.reshape(-1)[:0]
            total = value.detach().double().sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + value.numel()

    def are_finite(self) -> Tensor:
        """`[]` bool on the device: whether every value of this rank since the last reset is finite."""
        return torch.stack(list(self._sums.values())).isfinite().all()

    def compute(self) -> dict[str, float]:
        """`{name: mean}` since the last reset, over all ranks; names that counted nothing are left out."""
        sums, counts = self._reduced()
        return {name: total / count for name, total, count in zip(self._sums, sums, counts, strict=True) if count}

    def reset(self) -> None:
        """Forget values and names."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, list[float]]:
        """`{name: [sum, count]}` over all ranks (a collective: call it on every rank)."""
        sums, counts = self._reduced()
        return {name: [total, count] for name, total, count in zip(self._sums, sums, counts, strict=True)}

    def load_state_dict(self, state: Mapping[str, list[float]], *, device: torch.device | str, keep: bool = True) -> None:
        """Restore what `state_dict` gave. The sums stand for all ranks, so only one rank may `keep` them; the rest hold zeros."""
        self._sums = {name: torch.tensor(total * keep, dtype=torch.float64, device=device) for name, (total, _) in state.items()}
        self._counts = {name: int(count) * keep for name, (_, count) in state.items()}

    def _reduced(self) -> tuple[list[float], list[float]]:
        if not self._sums:
            return [], []
        sums = torch.stack(list(self._sums.values()))
        counts = torch.tensor(list(self._counts.values()), dtype=torch.float64)
        totals = torch.stack([sums, counts.to(sums.device, non_blocking=True)])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(totals)
        summed, counted = totals.tolist()
        return summed, counted
