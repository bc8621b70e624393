"""Sums over all completions of an optimizer step, for losses that use a mean or an order over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, StepShare
from lightning_modules.losses.completions import Sums, SumsOfStep
from lightning_modules.processes.ranks import over_ranks, place

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
        self._waits = False

    def begin(self, batches: Iterable[CompletionBatch], sums_of: SumsOf) -> None:
        """Begin a step of several microbatches a rank.

        Args:
            batches: the microbatches of this rank, in order, as many as on any other.
            sums_of: makes their sums.
        """
        with torch.no_grad():
            found = [(sums_of(batch), batch.share.idle) for batch in batches]
        self._gather([sums for sums, idle in found if not idle])

    def of(self, parts: list[Sums]) -> list[SumsOfStep]:
        """The step that this rank's parts are parts of, for each of them in order; they and those of other ranks are all of it."""
        self._gather(parts)
        return [self._at(self._first_pairs.pop(0), part) for part in parts]

    def expect(self) -> None:
        """Begin a step of one microbatch a rank: the next `part` brings it."""
        self._waits = True

    def part(self, sums: Sums, share: StepShare) -> SumsOfStep | None:
        """The step that the microbatch at hand is a part of; call it once for each microbatch, in order.

        Args:
            sums: of the microbatch.
            share: of the microbatch. One that does not count, of a rank that has nothing left, is no part of its step.
        """
        if share.microbatches == 1:
            self._whole, self._first_pairs = _on_device(sums, sums.policy.device), [0]
        elif self._waits:
            self._gather([] if share.idle else [sums])
        self._waits = False
        return None if share.idle else self._at(self._first_pairs.pop(0), sums)

    def last(self, sums: Sums) -> SumsOfStep | None:
        """The step that was last begun, for completions that are looked at outside a step; None before the first."""
        return None if self._whole is None else self._at(0, sums)

    def _at(self, first: int, sums: Sums) -> SumsOfStep:
        assert self._whole is not None, "a step has been gathered"
        return SumsOfStep(_on_device(self._whole, sums.policy.device), first)

    def _gather(self, own: list[Sums]) -> None:
        """Every rank calls it, and finds its own microbatches among those of all."""
        rank = place().rank
        parts = over_ranks([(rank, _on_device(sums, torch.device("cpu"))) for sums in own])
        counts = torch.tensor([len(sums.pairs) for _, sums in parts])
        firsts = (counts.cumsum(0) - counts).tolist()
        self._first_pairs = [first for first, (of, _) in zip(firsts, parts, strict=True) if of == rank]
        self._whole = joined([sums for _, sums in parts]) if parts else None


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
    moved: dict[str, Any] = {name: value.detach().to(device) for name, value in vars(sums).items() if isinstance(value, Tensor)}
    return replace(sums, **moved)
