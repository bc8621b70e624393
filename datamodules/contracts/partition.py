"""Cuts a sequence of lengths into consecutive runs."""

from __future__ import annotations

from collections.abc import Sequence

Runs = list[tuple[int, int]]
"""(first, past-the-end) of each run, in order, covering the sequence."""


def greedy_runs(lengths: Sequence[int], capacity: int) -> Runs:
    """Runs that are each as long as `capacity` allows (a longer single item stands alone); none of nothing."""
    runs, first, total = [], 0, 0
    for index, length in enumerate(lengths):
        if total + length > capacity and index > first:
            runs.append((first, index))
            first, total = index, 0
        total += length
    return [*runs, (first, len(lengths))] if lengths else []


def balanced_runs(lengths: Sequence[int], count: int) -> Runs:
    """Exactly `count` non-empty runs whose largest total is as small as runs allow.

    Args:
        lengths: positive, at least `count` of them.
        count: number of runs, >= 1.

    Raises:
        ValueError: if there are fewer items than runs.
    """
    if len(lengths) < count:
        raise ValueError(f"expected at least {count} prompts for {count} microbatches, got {len(lengths)}. Raise batch_size.")
    low, high = max(lengths), sum(lengths)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(greedy_runs(lengths, middle)) <= count else (middle + 1, high)
    return split_largest(lengths, greedy_runs(lengths, low), count)


def split_to_multiple(lengths: Sequence[int], runs: Runs, multiple: int) -> Runs:
    """Split the largest runs until their number is a multiple; where there are too few items, the multiple below, rebalanced."""
    count = -(-len(runs) // multiple) * multiple
    return split_largest(lengths, runs, count) if count <= len(lengths) else balanced_runs(lengths, count - multiple)


def split_largest(lengths: Sequence[int], runs: Runs, count: int) -> Runs:
    """Halve the runs with the largest totals until there are `count`; splitting never raises the largest total."""
    runs = list(runs)
    while len(runs) < count:
        first, last = max((run for run in runs if run[1] - run[0] > 1), key=lambda run: sum(lengths[run[0] : run[1]]))
        position = runs.index((first, last))
        middle = _halfway(lengths, first, last)
        runs[position : position + 1] = [(first, middle), (middle, last)]
    return runs


def _halfway(lengths: Sequence[int], first: int, last: int) -> int:
    """Where to cut `first:last` so that both parts are non-empty and the larger is smallest."""
    total, left = sum(lengths[first:last]), 0
    larger = []
    for middle in range(first + 1, last):
        left += lengths[middle - 1]
        larger.append((max(left, total - left), middle))
    return min(larger)[1]
