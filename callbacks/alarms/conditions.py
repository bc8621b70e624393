"""Conditions on the last readings of a metric; rules are made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Statistic = Literal["level", "change", "growth", "drift", "trend"]
"""level: mean of the last `window` readings. change: that minus the first reading of the run. growth: the change as a share of the
first reading. drift: the level minus the mean of the `window` readings before. trend: Kendall's tau of the last `window` readings
with their order, in the standard errors that it has where there is no order."""

MAX_WINDOW = 8
"""Readings; twice as many are kept, and a trend may have as many."""


@dataclass
class History:
    """The first reading of a metric and its last ones, oldest first."""

    first: float
    recent: list[float] = field(default_factory=list)
    count: int = 0
    """Readings so far."""

    def __post_init__(self) -> None:
        # Checkpoints of earlier versions have no count.
        self.count = max(self.count, len(self.recent))

    def add(self, value: float) -> None:
        """Add the newest reading."""
        self.count += 1
        self.recent = [*self.recent[1 - 2 * MAX_WINDOW :], value]


class Histories:
    """Histories of the metrics that some rule reads; others are not kept.

    Args:
        names: of the metrics.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._histories: dict[str, History] = {}

    def add(self, readings: Mapping[str, float]) -> frozenset[str]:
        """Add one reading of each metric; returns the names that were kept. A reading that is not finite is left out."""
        kept = {name: value for name, value in readings.items() if name in self._names and math.isfinite(value)}
        for name, value in kept.items():
            self._histories.setdefault(name, History(value)).add(value)
        return frozenset(kept)

    def get(self, name: str) -> History | None:
        """The history of a metric; None where it was never read."""
        return self._histories.get(name)

    def latest(self) -> dict[str, float]:
        """The last reading of every metric."""
        return {name: history.recent[-1] for name, history in self._histories.items()}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {name: asdict(history) for name, history in self._histories.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; metrics that no rule reads any more are dropped."""
        self._histories = {name: History(**saved) for name, saved in state.items() if name in self._names}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """above < statistic of a metric's last readings < below; not judged while there are too few readings.

    Raises:
        ValueError: if the window is out of range, or no bound is given.
    """

    metric: str
    """Its name in docs/metrics.md."""
    of: Statistic = "level"
    above: float = -math.inf
    """Exclusive, in the metric's unit."""
    below: float = math.inf
    """Exclusive, in the metric's unit."""
    window: int = 2
    """Readings that are averaged, in [1, 8]; those of a trend in [4, 16]."""
    share: float = 0.0
    """Of the readings so far: where that is more than `window`, so many are taken, up to the most that a window may have. In
    [0, 0.5], of a trend in [0, 1]."""

    def __post_init__(self) -> None:
        low, high, most = (4, 2 * MAX_WINDOW, 1.0) if self.of == "trend" else (1, MAX_WINDOW, 0.5)
        if not low <= self.window <= high:
            raise ValueError(f"expected window in [{low}, {high}], got {self.window}. It counts readings, not steps.")
        if not 0 <= self.share <= most:
            raise ValueError(f"expected share in [0, {most:g}], got {self.share}. It is a part of the readings so far.")
        if self.above == -math.inf and self.below == math.inf:
            raise ValueError(f"expected a bound for {self.metric}, got neither above nor below. Set one of them.")

    @property
    def num_readings(self) -> int:
        """Readings without which there is no statistic."""
        further = {"change": 1, "growth": 1, "drift": self.window}
        return self.window + further.get(self.of, 0)

    def holds(self, histories: Histories) -> bool | None:
        """Whether it holds now; None where that cannot be said."""
        value = self.value(histories.get(self.metric))
        return None if value is None else self.above < value < self.below

    def lack(self, histories: Histories) -> str:
        """Why it cannot be judged, in words; empty where it can."""
        history = histories.get(self.metric)
        if self.value(history) is not None:
            return ""
        if history is None:
            return f"{self.metric} was not measured"
        if len(history.recent) < self.num_readings:
            return f"{self.metric} was read {len(history.recent)} of {self.num_readings} times that are needed"
        return f"{self.metric} began at 0"

    def value(self, history: History | None) -> float | None:
        """The statistic; None while there are too few readings."""
        if history is None or len(history.recent) < self.num_readings:
            return None
        window = self._window(history)
        if self.of == "trend":
            return _trend(history.recent[-window:])
        level = _mean(history.recent[-window:])
        if self.of == "drift":
            return level - _mean(history.recent[-2 * window : -window])
        if self.of == "growth":
            return (level - history.first) / abs(history.first) if history.first else None
        return level - history.first if self.of == "change" else level

    def _window(self, history: History) -> int:
        longest = 2 * MAX_WINDOW if self.of == "trend" else MAX_WINDOW
        return max(self.window, min(int(self.share * history.count), longest))

    def __str__(self) -> str:
        of = "" if self.of == "level" else f"{self.of} of "
        bounds = [f"> {self.above:g}"] * (self.above > -math.inf) + [f"< {self.below:g}"] * (self.below < math.inf)
        return f"{of}{self.metric} {' and '.join(bounds)}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _trend(values: list[float]) -> float:
    """Kendall (1938): z = tau / sqrt(2 (2n + 5) / (9 n (n - 1))), tau = mean over pairs of the sign of later - earlier."""
    n = len(values)
    signs = [(later > earlier) - (later < earlier) for place, earlier in enumerate(values) for later in values[place + 1 :]]
    return sum(signs) / len(signs) / math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))
