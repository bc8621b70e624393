"""Means over everything since the last reading: microbatches, steps and ranks, weighted by count, with one collective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric


class CountedMeans(Metric):
    """Running sums and counts of named per-unit values.

    `update` costs no device sync; `compute` reads all names at once (one collective over ranks, one transfer). Every rank
    must update with the same names; an empty tensor is a legal value and weighs nothing.
    """

    full_state_update = False
    totals: Tensor

    def __init__(self) -> None:
        """Empty; names are taken from the updates."""
        super().__init__(sync_on_compute=True)
        self.names: list[str] = []
        self.add_state("totals", default=torch.zeros(0, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add `{name: [n] values}` (n may differ from name to name, and be 0)."""
        new = [name for name in values if name not in self.names]
        if new:
            self.names += new
            self.totals = torch.cat([self.totals, self.totals.new_zeros(len(new), 2)])
        rows = [
            torch.stack([values[name].detach().double().sum(), self.totals.new_tensor(float(values[name].numel()))])
            if name in values
            else self.totals.new_zeros(2)
            for name in self.names
        ]
        self.totals = self.totals + torch.stack(rows).to(self.totals.device)

    def compute(self) -> dict[str, float]:
        """`{name: mean}` since the last reset, over all ranks; names that counted nothing are left out."""
        means = {}
        for name, (total, count) in zip(self.names, self.totals.tolist(), strict=True):
            if count:
                means[name] = total / count
        return means

    def reset(self) -> None:
        """Forget values and names."""
        super().reset()
        self.names = []
