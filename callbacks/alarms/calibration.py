"""Reads the coefficients of the warning's probability, its held-out scores and its training runs from one small file.

`python -m studies page verdict` writes the file from labelled runs; docs/results/verdict has what came out.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from callbacks.alarms.features import FEATURES

FILE = Path(__file__).with_name("calibration.json")
NEAREST = 20
"""Held-out runs that "read like this": those with the nearest scores."""
FAR = 3.0
"""A size or a vocabulary this many times beyond what was calibrated on is outside of it."""


@dataclass(frozen=True)
class Setting:
    """What a run is, beside what it reads."""

    parameters: int
    vocabulary: int | None
    objective: str
    """Class of its loss, or of its module."""


@dataclass(frozen=True)
class Likeness:
    """Held-out runs that read like this one."""

    wrong: int
    """Of the `runs` with the nearest highest scores."""
    runs: int
    fine_above: int
    """Of the `fine` runs that ended well, those whose score came as high."""
    fine: int


@dataclass(frozen=True)
class Calibration:
    """A logistic model of a run's end, from sizes of `FEATURES` in their order; scores grow with every feature."""

    weights: tuple[float, ...]
    """Of each feature's size, >= 0."""
    intercept: float
    probability_of: tuple[float, float]
    """(slope, intercept) of the log-odds that a run ends wrong, in its highest score; fitted on held-out runs."""
    threshold: float
    """Score from which a run is warned of."""
    wrong: tuple[float, ...]
    """Highest scores of held-out runs that ended wrong, ascending."""
    fine: tuple[float, ...]
    """The same of those that ended well."""
    centre: tuple[float, ...]
    """Mean sizes over the calibration's readings."""
    precision: tuple[tuple[float, ...], ...]
    """Inverse covariance of the sizes."""
    limit: float
    """Mahalanobis distance beyond which a reading is outside."""
    parameters: tuple[int, int]
    """Smallest and largest model."""
    vocabulary: tuple[int, int]
    objectives: tuple[str, ...]
    runs: Mapping[str, Sequence[int]]
    """Family -> (fine, wrong) runs."""

    def score(self, sizes: Sequence[float]) -> float:
        """Log-odds of a reading, before they are made a probability."""
        return self.intercept + sum(self.contributions(sizes))

    def contributions(self, sizes: Sequence[float]) -> list[float]:
        """What each feature adds to the score, >= 0."""
        return [weight * size for weight, size in zip(self.weights, sizes, strict=True)]

    def probability(self, score: float) -> float:
        """That a run whose highest score is this one ends wrong."""
        slope, intercept = self.probability_of
        return 1 / (1 + math.exp(-(slope * score + intercept)))

    def likeness(self, score: float) -> Likeness:
        """How held-out runs ended that read like this."""
        labelled = [(value, True) for value in self.wrong] + [(value, False) for value in self.fine]
        nearest = sorted(labelled, key=lambda run: abs(run[0] - score))[:NEAREST]
        above = len(self.fine) - bisect_left(self.fine, score)
        return Likeness(sum(is_wrong for _, is_wrong in nearest), len(nearest), above, len(self.fine))

    def distance(self, sizes: Sequence[float]) -> float:
        """Mahalanobis distance of a reading to those that were calibrated on."""
        apart = np.array(sizes) - np.array(self.centre)
        return float(np.sqrt(max(apart @ np.array(self.precision) @ apart, 0.0)))

    def outside(self, sizes: Sequence[float], setting: Setting) -> list[str]:
        """In what respects a reading or its run is beyond what was calibrated on, in words; none where it is not."""
        found = _beyond("parameters", setting.parameters, self.parameters)
        found += [] if setting.vocabulary is None else _beyond("tokens of vocabulary", setting.vocabulary, self.vocabulary)
        if setting.objective not in self.objectives:
            found.append(setting.objective)
        distance = self.distance(sizes)
        if distance > self.limit:
            found.append(f"readings {distance / self.limit:.1f} times as far from the middle as the farthest hundredth")
        return found

    @property
    def num_runs(self) -> int:
        """Runs that it was made of."""
        return sum(map(sum, self.runs.values()))


def _beyond(what: str, value: int, known: tuple[int, int]) -> list[str]:
    low, high = known
    if low / FAR <= value <= high * FAR:
        return []
    return [f"{value:,} {what} ({low:,} to {high:,})"]


@cache
def shipped(is_judged: bool = False) -> Calibration:
    """The calibration of the file.

    Args:
        is_judged: that for runs whose answers are judged on the way.

    Raises:
        ValueError: if the file is of other features.
    """
    content = json.loads(FILE.read_text(encoding="utf-8"))
    names = [feature.name for feature in FEATURES]
    if content["features"] != names:
        raise ValueError(
            f"expected {FILE.name} for the features {names}, got {content['features']}. Make it: python -m studies page verdict"
        )
    content = content["judged" if is_judged else "bank"]
    return Calibration(
        weights=tuple(content["weights"]),
        intercept=content["intercept"],
        probability_of=(content["probability_of"][0], content["probability_of"][1]),
        threshold=content["threshold"],
        wrong=tuple(content["wrong"]),
        fine=tuple(content["fine"]),
        centre=tuple(content["centre"]),
        precision=tuple(map(tuple, content["precision"])),
        limit=content["limit"],
        parameters=(content["parameters"][0], content["parameters"][1]),
        vocabulary=(content["vocabulary"][0], content["vocabulary"][1]),
        objectives=tuple(content["objectives"]),
        runs=content["runs"],
    )
