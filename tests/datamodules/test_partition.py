from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from datamodules.contracts.partition import balanced_runs, greedy_runs, split_to_multiple


def totals(lengths: list[int], runs: list[tuple[int, int]]) -> list[int]:
    return [sum(lengths[first:last]) for first, last in runs]


def covers(lengths: list[int], runs: list[tuple[int, int]]) -> bool:
    return [index for first, last in runs for index in range(first, last)] == list(range(len(lengths)))


def best_by_enumeration(lengths: list[int], count: int) -> int:
    cuts = combinations(range(1, len(lengths)), count - 1)
    return min(max(totals(lengths, list(zip((0, *cut), (*cut, len(lengths)), strict=True)))) for cut in cuts)


def test_greedy_runs_by_hand() -> None:
    assert greedy_runs([3, 3, 3, 9, 1, 1], 7) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert greedy_runs([], 7) == []


@pytest.mark.parametrize("seed", range(40))
def test_balanced_runs_are_the_best_there_are(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 30, size=generator.integers(1, 10)).tolist()
    count = int(generator.integers(1, len(lengths) + 1))
    runs = balanced_runs(lengths, count)
    assert covers(lengths, runs)
    assert len(runs) == count
    assert all(first < last for first, last in runs)
    assert max(totals(lengths, runs)) == best_by_enumeration(lengths, count)


def test_balanced_runs_refuse_more_runs_than_items() -> None:
    with pytest.raises(ValueError, match="at least 3 prompts for 3 microbatches, got 2"):
        balanced_runs([1, 1], 3)


def test_split_to_multiple_keeps_to_the_capacity_where_it_can() -> None:
    lengths = [4, 4, 4, 4, 4]
    runs = split_to_multiple(lengths, greedy_runs(lengths, 8), 2)
    assert len(runs) == 4
    assert covers(lengths, runs)
    assert max(totals(lengths, runs)) <= 8


def test_split_to_multiple_goes_over_by_at_most_double_where_items_run_out() -> None:
    lengths = [8, 8, 8]
    runs = split_to_multiple(lengths, greedy_runs(lengths, 8), 2)
    assert len(runs) == 2
    assert covers(lengths, runs)
    assert max(totals(lengths, runs)) == 16
