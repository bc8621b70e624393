"""Computes the probability of harm at each reading and gives at most one warning a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from callbacks.alarms.calibration import Calibration, Setting, shipped
from callbacks.alarms.features import FEATURES, JUDGED, METRICS, lacking

CLAUSES = 3
"""Pieces of evidence that a warning names, the heaviest first."""


@dataclass(frozen=True)
class Judgement:
    """What one reading of the bank says."""

    step: int
    values: dict[str, float]
    """Features by name."""
    contributions: dict[str, float]
    """What each adds to the score."""
    score: float
    """The highest so far."""
    probability: float
    """That the run ends worse than it began."""
    outside: tuple[str, ...]
    """In what respects it is beyond what the calibration knows."""
    is_warning: bool
    """Whether the threshold is passed for the first time."""

    @property
    def property(self) -> str:
        """The property that its heaviest feature is a sign of."""
        return max(FEATURES, key=lambda feature: self.contributions[feature.name]).property


class HarmWatch:
    """Hears the bank's readings and judges them; a run is warned of once.

    Args:
        calibration: what probabilities come from; by default the shipped one, which is another where answers are judged.
    """

    def __init__(self, calibration: Calibration | None = None) -> None:
        self._given = calibration
        self._first: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._fresh = False
        self._unseen = False
        self._highest: tuple[float, int] | None = None
        self._warned_at: int | None = None

    @property
    def calibration(self) -> Calibration:
        """What probabilities come from. A run whose answers are judged is told by its first reading, before it is judged at all."""
        return self._given or shipped(is_judged=self._first.keys() >= JUDGED)

    def hear(self, readings: Mapping[str, float]) -> None:
        """Take readings of the step that is judged next; others than the features' are left alone."""
        for name in (METRICS | JUDGED) & readings.keys():
            if math.isfinite(readings[name]):
                # The first reading is the start, so nothing has changed yet.
                self._fresh |= name in self._first
                self._unseen = True
                self._first.setdefault(name, readings[name])
                self._latest[name] = readings[name]

    def new_features(self) -> dict[str, float]:
        """Their values now; none while something was not measured, or nothing was read since the last call."""
        if not self._unseen or lacking(self._latest):
            return {}
        self._unseen = False
        return self._features()

    def _features(self) -> dict[str, float]:
        return {feature.name: feature.value(self._first, self._latest) for feature in FEATURES}

    def judge(self, step: int, setting: Setting) -> Judgement | None:
        """What the readings since the last call say; None where there are none, or too few.

        Args:
            step: of the readings.
            setting: what the run is.
        """
        if not self._fresh or lacking(self._latest):
            return None
        self._fresh = False
        sizes = [feature.size(self._first, self._latest) for feature in FEATURES]
        own = self.calibration.score(sizes)
        if self._highest is None or own > self._highest[0]:
            self._highest = own, step
        score = self._highest[0]
        is_warning = self._warned_at is None and score >= self.calibration.threshold
        if is_warning:
            self._warned_at = step
        return Judgement(
            step,
            self._features(),
            dict(zip((feature.name for feature in FEATURES), self.calibration.contributions(sizes), strict=True)),
            score,
            self.calibration.probability(score),
            tuple(self.calibration.outside(sizes, setting)),
            is_warning,
        )

    def verdict(self) -> str:
        """What became of it: a warning and when, or how near it came, or why nothing was judged."""
        if self._warned_at is not None:
            return f"warned at step {self._warned_at}"
        if self._highest is not None:
            score, step = self._highest
            return f"no warning: at most {self.calibration.probability(score):.0%} likely to end worse (step {step})"
        lacks = lacking(self._latest)
        return f"not judged: {_named(lacks)} not measured" if lacks else "not judged: no reading of the bank came after the first"

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; taken between judgements."""
        highest = None if self._highest is None else list(self._highest)
        return {"first": dict(self._first), "latest": dict(self._latest), "highest": highest, "warned_at": self._warned_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._first, self._latest = dict(state["first"]), dict(state["latest"])
        self._highest = None if state["highest"] is None else (state["highest"][0], state["highest"][1])
        self._warned_at = state["warned_at"]


def message(judgement: Judgement, calibration: Calibration) -> str:
    """The warning in words: how likely harm is, what moved it, and what it was calibrated on."""
    like = calibration.likeness(judgement.score)
    heaviest = sorted(FEATURES, key=lambda feature: -judgement.contributions[feature.name])
    clauses = [
        feature.says.format(value=judgement.values[feature.name])
        for feature in heaviest[:CLAUSES]
        if judgement.contributions[feature.name] > 0
    ]
    sentences = [
        f"This run is {judgement.probability:.0%} likely to end worse than it began.",
        f"Of the {like.runs} runs that read most like it {like.wrong} did; "
        f"{like.fine_above} of {like.fine} that ended well read as badly.",
        f"What shows since the start: {'; '.join(clauses)}.",
        f"Calibrated on {calibration.num_runs} runs of {len(calibration.runs)} families (docs/results/verdict).",
    ]
    if judgement.outside:
        sentences.append(f"Outside what it was calibrated on: {'; '.join(judgement.outside)}.")
    return " ".join(sentences)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:2])
    return f"{shown} and {len(names) - 2} more were" if len(names) > 2 else f"{shown} {'were' if len(names) > 1 else 'was'}"
