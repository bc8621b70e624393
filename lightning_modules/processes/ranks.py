"""The processes of a run: splits work among ranks and gathers their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from torch import distributed

from datamodules.contracts.partition import greedy_runs, split_largest

T = TypeVar("T")


class Place(NamedTuple):
    """This process among those of the run."""

    rank: int
    """From 0."""
    size: int


class Part(NamedTuple):
    """What one process does in one pass."""

    numbers: list[int]
    """Of the items, at least one."""
    idle: bool = False
    """Whether another process has them: this one goes through them because all make the same calls, and they count nothing."""


def place() -> Place:
    """Where this process stands; `(0, 1)` where it is the only one."""
    if not distributed.is_available() or not distributed.is_initialized():
        return Place(0, 1)
    return Place(distributed.get_rank(), distributed.get_world_size())


def block(items: Sequence[T], own: Place) -> Sequence[T]:
    """This process's consecutive part of the items, of nearly equal size; one after the other they are all items, in order."""
    return items[len(items) * own.rank // own.size : len(items) * (own.rank + 1) // own.size]


def over_ranks(items: Sequence[T]) -> list[T]:
    """What all ranks have, in the order of the ranks. A collective: call it on every rank."""
    if place().size == 1:
        return list(items)
    parts: list[Sequence[T] | None] = [None] * place().size
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part or ()]


def of_all_ranks(work: Callable[[], T]) -> list[T]:
    """What the work gives on every rank, in the order of the ranks. A collective, which the work itself must not contain.

    Raises:
        Exception: what the work raised here.
        ValueError: what it raised on another rank: none waits for a rank that has given up.
    """
    if place().size == 1:
        return [work()]
    raised: Exception | None = None
    own: list[T] = []
    try:
        own = [work()]
    except Exception as error:
        raised = error
    found = over_ranks([(own, str(raised))])
    if raised is not None:
        raise raised
    failures = [reason for results, reason in found if not results]
    if failures:
        raise ValueError(failures[0])
    return [result for results, _ in found for result in results]


def in_order(batches: Sequence[Sequence[T]]) -> list[T]:
    """What all ranks made of their batches, as one process makes it: the first batch of each rank, then the second, ...

    A collective: call it on every rank, with as many batches.
    """
    parts = over_ranks([batches])
    return [item for row in zip(*parts, strict=True) for batch in row for item in batch]


def parts_of(sizes: Sequence[int], budget: int, own: Place) -> list[Part]:
    """The passes of this process over items that all processes share, as many as those of any other process.

    Args:
        sizes: of the items, at least one.
        budget: of a pass; an item beyond it stands alone.
        own: place of this process.
    """
    runs = greedy_runs(sizes, budget)
    count = -(-len(runs) // own.size) * own.size
    runs = split_largest(sizes, runs, min(count, len(sizes)))
    parts = [Part(list(range(first, last))) for first, last in runs]
    parts += [Part([0], idle=True)] * (count - len(runs))
    return parts[own.rank :: own.size]
