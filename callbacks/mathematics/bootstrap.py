"""Confidence intervals of means, by resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def bootstrap_interval(
    strata: Sequence[npt.NDArray[np.float64]], *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval (Efron 1979) of the mean over all values; each stratum is resampled within itself.

    Args:
        strata: `[n_i]` values of each set, in their unit; at least one value in all. Sets that are joined keep their sizes.
        level: probability that the interval is to hold, in (0, 1).
        num_resamples: of all the values together.
        seed: of the draws.

    Returns:
        Its lower and its upper end.
    """
    rng = np.random.default_rng(seed)
    sums = sum(_resampled_sums(values, num_resamples, rng) for values in strata)
    low, high = np.quantile(sums / sum(map(len, strata)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_sums(values: npt.NDArray[np.float64], num_resamples: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    # One after the other: all index draws at once would take gigabytes for a test set of thousands.
    return np.array([values[rng.integers(len(values), size=len(values))].sum() for _ in range(num_resamples)])
