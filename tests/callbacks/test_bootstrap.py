from __future__ import annotations

import numpy as np
import pytest

from callbacks.mathematics.bootstrap import bootstrap_interval


def test_a_share_has_the_interval_of_the_normal_approximation() -> None:
    values = np.array([1.0] * 300 + [0.0] * 700)
    low, high = bootstrap_interval([values])
    spread = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert [low, high] == pytest.approx([0.3 - spread, 0.3 + spread], abs=0.003)


def test_sets_that_are_joined_keep_their_sizes() -> None:
    """Between sets nothing varies: two sets of constants have an interval of no width, thrown together they would not."""
    first, second = np.ones(30), np.zeros(10)
    assert bootstrap_interval([first, second]) == (0.75, 0.75)
    low, high = bootstrap_interval([np.concatenate([first, second])])
    assert low < 0.7 < 0.8 < high


def test_the_level_and_the_seed_count() -> None:
    values = np.random.default_rng(1).normal(size=50)
    low, high = bootstrap_interval([values])
    narrow = bootstrap_interval([values], level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high
    assert bootstrap_interval([values]) == (low, high)
    assert bootstrap_interval([values], seed=1) != (low, high)
