"""Remedies against going on: differences prompt by prompt, with intervals that hold for all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from advice.measures import JUDGED, MEASURES, Values

Floats = npt.NDArray[np.float64]

RESAMPLES = 4000


class Key(NamedTuple):
    """One comparison: a remedy after some steps against the control after the same."""

    remedy: str
    steps: int


@dataclass(frozen=True)
class Difference:
    """How much better a remedy is than the control on one measure. Above 0 is better, also of measures that should fall."""

    value: float
    """The remedy's mean."""
    control: float
    better: float
    low: float
    high: float
    prompts: int

    @property
    def helps(self) -> bool:
        """Better beyond noise."""
        return self.low > 0

    @property
    def harms(self) -> bool:
        """Worse beyond noise."""
        return self.high < 0


def differences(
    tried: Mapping[Key, Values], controls: Mapping[int, Values], *, level: float = 0.95, seed: int = 0
) -> dict[Key, dict[str, Difference]]:
    """Every remedy against the control at the same steps, on every measure that both have.

    For one measure the intervals of all comparisons hold together with the probability `level`: the studentised maximum over
    them, from resampling prompts (the same ones for all), takes the place of 1.96. So the best of eight is no better than it is.
    The measures that decide share the rest of the error: with m of them each has the level 1 - (1 - level) / m.

    Args:
        tried: what was read of each remedy.
        controls: what was read of the control, by steps.
        level: in (0, 1).
        seed: of the resampling.
    """
    names = [name for name in MEASURES if any(name in values for values in controls.values())]
    number = max(1, len(deciding(names)))
    found: dict[Key, dict[str, Difference]] = {key: {} for key in tried}
    for name in names:
        keys = [key for key, values in tried.items() if name in values and name in controls.get(key.steps, {})]
        if not keys:
            continue
        sign = 1 if MEASURES[name].is_better_high else -1
        remedies = np.array([tried[key][name] for key in keys], dtype=np.float64)
        against = np.array([controls[key.steps][name] for key in keys], dtype=np.float64)
        better = sign * (remedies - against)
        half = simultaneous_half_widths(better, 1 - (1 - level) / number, seed)
        for key, row, own, other, width in zip(keys, better, remedies, against, half, strict=True):
            mean = float(row.mean())
            found[key][name] = Difference(float(own.mean()), float(other.mean()), mean, mean - width, mean + width, len(row))
    return found


def simultaneous_half_widths(values: Floats, level: float, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Half widths of intervals for the means of the rows that hold all at once (studentised maximum, resampled columns).

        q = quantile over resamples of max_k |mean*_k - mean_k| / se_k,   half_k = q se_k,   se_k = sd_k / sqrt(n)

    Args:
        values: `[comparisons, prompts]`; a row without spread has the width 0.
        level: in (0, 1).
        seed: of the draws.
        resamples: of the prompts.
    """
    count = values.shape[1]
    errors = values.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(values), np.inf)
    spread = np.isfinite(errors) & (errors > 0)
    half = np.where(np.isinf(errors), np.inf, 0.0)
    if spread.any():
        rng = np.random.default_rng(seed)
        centred = values[spread] - values[spread].mean(axis=1, keepdims=True)
        # How often each prompt was drawn: a product then does for all comparisons at once.
        draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
        largest = np.abs(draws @ centred.T / count / errors[spread]).max(axis=1)
        half[spread] = float(np.quantile(largest, level)) * errors[spread]
    return half


def deciding(names: Iterable[str]) -> list[str]:
    """Of the measures that were read those that a recommendation rests on."""
    present = list(names)
    judged = [name for name in JUDGED if name in present]
    return judged or [name for name in present if MEASURES[name].decides]


def recommended(found: Mapping[Key, Mapping[str, Difference]]) -> Key | None:
    """The remedy that helps beyond noise and harms nowhere beyond it; of several the one with the largest effect; None if none."""
    able = {key: of for key, of in found.items() if _helps(of)}
    return max(able, key=lambda key: effect(able[key]), default=None)


def _helps(of: Mapping[str, Difference]) -> bool:
    read = [of[name] for name in deciding(of)]
    return any(one.helps for one in read) and not any(one.harms for one in read)


def effect(of: Mapping[str, Difference]) -> float:
    """Ranks remedies and proves nothing: the difference on the one measure that decides, or of several the mean in half widths."""
    read = [of[name] for name in deciding(of)]
    if len(read) == 1:
        return read[0].better
    sizes = [one.better / (one.high - one.better) if one.high > one.better else 0.0 for one in read]
    return float(np.mean(sizes)) if sizes else -np.inf


def best_first(names: Sequence[str], found: Mapping[Key, Mapping[str, Difference]], steps: int) -> list[str]:
    """Remedies by their effect after so many steps."""
    return sorted(names, key=lambda name: effect(found[Key(name, steps)]), reverse=True)
