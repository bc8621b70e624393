"""The sums of all completions of an optimizer step, for losses that read a mean or an order over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from datamodules.batches import CompletionBatch
from lightning_modules.losses.completions import Sums, SumsOfStep
from lightning_modules.step_guard import over_ranks

SumsOf = Callable[[CompletionBatch], Sums]
"""Sums of a microbatch's completions under the policy as it is."""


class WholeStep:
    """Gathers the sums of one optimizer step after the other, over microbatches and ranks.

    A step of one microbatch a rank costs a collective and no pass: its own sums are at hand. Of several, the first waits for a pass
    without gradient over all of them, because its loss is differentiated before the others are seen.
    """

    def __init__(self) -> None:
        """No step begun."""
        self._whole: Sums | None = None
        self._first_pairs: list[int] = []
        self._number = 0
        self._waits = False

    def begin(self, batches: Iterable[CompletionBatch], sums_of: SumsOf) -> None:
        """Begin a step of several microbatches a rank.

        Args:
            batches: the microbatches of this rank, in order.
            sums_of: makes their sums.
        """
        with torch.no_grad():
            self._gather([sums_of(batch) for batch in batches])

    def expect(self) -> None:
        """Begin a step of one microbatch a rank: the next `part` brings it."""
        self._waits = True

    def part(self, sums: Sums) -> SumsOfStep | None:
        """The step that the microbatch at hand belongs to; None where it is not a part of one (a validation).

        Args:
            sums: of the microbatch.
        """
        if self._waits:
            self._waits = False
            self._gather([sums])
        if self._whole is None:
            return None
        step = SumsOfStep(_on_device(self._whole, sums.policy.device), self._first_pairs[self._number])
        self._number += 1
        if self._number == len(self._first_pairs):
            self._whole = None
        return step

    def _gather(self, own: list[Sums]) -> None:
        """Every rank calls it with as many microbatches; each finds its own among those of all."""
        rank = torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
        parts = over_ranks([(rank, _on_device(sums, torch.device("cpu"))) for sums in own])
        counts = torch.tensor([len(sums.pairs) for _, sums in parts])
        firsts = (counts.cumsum(0) - counts).tolist()
        self._first_pairs = [first for first, (of, _) in zip(firsts, parts, strict=True) if of == rank]
        self._whole, self._number = joined([sums for _, sums in parts]), 0


def joined(parts: list[Sums]) -> Sums:
    """One after the other, the pairs numbered on."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part.kinds))
    return Sums(
        policy=torch.cat([part.policy for part in parts]),
        reference=_joined([part.reference for part in parts]),
        lengths=torch.cat([part.lengths for part in parts]),
        scores=_joined([part.scores for part in parts]),
        pairs=torch.cat([part.pairs + start for part, start in zip(parts, starts, strict=False)]),
        kinds=tuple(kind for part in parts for kind in part.kinds),
    )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None


def _on_device(sums: Sums, device: torch.device) -> Sums:
    moved = {name: value.detach().to(device) for name, value in vars(sums).items() if isinstance(value, Tensor)}
    return replace(sums, **cast(Any, moved))
