"""The warning's model: logistic regression with no negative coefficient, left-out families, thresholds, probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from studies.verdict.families import APART, CHOSEN, DECLARED, JUDGED, Array, LabelledRun

FALSE_ALARMS, MIN_FINE = 0.05, 20
"""The rate that is kept, and the fine runs from which on a family must keep it by itself."""

Sizes = Callable[[LabelledRun], Array]
"""`[readings, features]` of a run."""


@dataclass(frozen=True)
class Model:
    """Weights of sizes, and what is added."""

    weights: Array
    intercept: float

    def highest(self, sizes: Array) -> float:
        """The highest score of a run's readings."""
        return float((sizes @ self.weights).max() + self.intercept)

    def scores(self, sizes: Array) -> Array:
        """The highest score up to each reading."""
        return np.maximum.accumulate(sizes @ self.weights + self.intercept)


def chosen(run: LabelledRun) -> Array:
    """`[readings, features]`: what the shipped warning weighs, and 0 for what it does not."""
    return _only(run, CHOSEN)


def with_judged(run: LabelledRun) -> Array:
    """`[readings, features]`: what it weighs where answers are judged."""
    return _only(run, JUDGED)


def declared(run: LabelledRun) -> Array:
    """The same of the features that were declared before the first run."""
    return _only(run, DECLARED)


def _only(run: LabelledRun, columns: Sequence[int]) -> Array:
    sizes = np.zeros_like(run.sizes)
    sizes[:, columns] = run.sizes[:, columns]
    return sizes


def fit(runs: Sequence[LabelledRun], sizes: Sizes) -> Model:
    """Fit the model to all readings of the runs, each run weighing 1; the most negative coefficient goes until none is left."""
    # What the rest of the study, and its tests, do without.
    from sklearn.linear_model import LogisticRegression

    parts = [sizes(run) for run in runs]
    table = np.concatenate(parts)
    labels = np.concatenate([np.full(len(part), run.outcome.is_wrong) for run, part in zip(runs, parts, strict=True)])
    weight = np.concatenate([np.full(len(part), 1 / len(part)) for part in parts])
    scale = table.std(0)
    kept = [column for column in range(table.shape[1]) if scale[column] > 0]
    while True:
        model = LogisticRegression(C=1.0, max_iter=1000).fit(table[:, kept] / scale[kept], labels, sample_weight=weight)
        coefficients = model.coef_[0]
        if coefficients.min() >= 0 or len(kept) == 1:
            break
        del kept[int(coefficients.argmin())]
    weights = np.zeros(table.shape[1])
    weights[kept] = np.maximum(coefficients, 0) / scale[kept]
    return Model(weights, float(model.intercept_[0]))


def trainable(runs: Iterable[LabelledRun]) -> list[LabelledRun]:
    """Runs that may be trained on."""
    return [run for run in runs if run.family != APART and len(run.sizes)]


def without_own_family(runs: Sequence[LabelledRun], sizes: Sizes) -> dict[str, Model]:
    """Family -> a model of the other families."""
    families = dict.fromkeys(run.family for run in runs)
    return {family: fit([run for run in trainable(runs) if run.family != family], sizes) for family in families}


@dataclass(frozen=True)
class Scored:
    """A held-out run and its score at each reading."""

    run: LabelledRun
    steps: Sequence[int]
    scores: Array
    """Highest so far, at each of the steps."""

    @property
    def highest(self) -> float:
        """The score that says whether it is warned of."""
        return float(self.scores[-1])

    def warned_at(self, threshold: float) -> int | None:
        """First step at which the score reaches the threshold."""
        return next((step for step, score in zip(self.steps, self.scores, strict=True) if score >= threshold), None)


def held_out(runs: Sequence[LabelledRun], sizes: Sizes) -> list[Scored]:
    """Every run, scored by a model that has not seen its family."""
    models = without_own_family(runs, sizes)
    return [Scored(run, run.reading_steps, models[run.family].scores(sizes(run))) for run in runs if len(run.sizes)]


def later(runs: Sequence[LabelledRun], sizes: Sizes) -> tuple[list[Scored], float]:
    """Runs made after the features were chosen, scored by models of the earlier runs of other families; the earlier threshold."""
    earlier = [run for run in runs if run.is_development]
    models = without_own_family(earlier, sizes)
    scored = [
        Scored(run, run.reading_steps, models[run.family].scores(sizes(run)))
        for run in runs
        if not run.is_development and len(run.sizes) and run.family in models
    ]
    return scored, threshold_of(held_out(earlier, sizes))


def threshold_of(scored: Sequence[Scored], rate: float = FALSE_ALARMS) -> float:
    """The smallest score at which no more than `rate` of the fine runs warn, in all and in every family with enough of them."""
    fine = [one for one in scored if not one.run.outcome.is_wrong and one.run.family != APART]
    groups = [fine]
    for family in dict.fromkeys(one.run.family for one in fine):
        members = [one for one in fine if one.run.family == family]
        groups += [members] if len(members) >= MIN_FINE else []
    return max(smallest([one.highest for one in group], rate) for group in groups)


def smallest(scores: Sequence[float], rate: float) -> float:
    """The smallest threshold that at most `rate` of the scores reach: just above the highest that must not."""
    allowed = int(rate * len(scores) + 1e-9)
    ranked = sorted(scores, reverse=True)
    return float(np.nextafter(ranked[allowed], np.inf)) if allowed < len(ranked) else -np.inf


def threshold_without(scored: Sequence[Scored], family: str) -> float:
    """The threshold that the other families' held-out scores would have given."""
    return threshold_of([one for one in scored if one.run.family != family])


def probability_of(scored: Sequence[Scored]) -> tuple[float, float]:
    """(slope, intercept) of the log-odds that a run ends wrong in its highest held-out score; the family apart is left out."""
    from sklearn.linear_model import LogisticRegression

    trained = [one for one in scored if one.run.family != APART]
    scores = np.array([[one.highest] for one in trained])
    labels = np.array([one.run.outcome.is_wrong for one in trained])
    model = LogisticRegression(C=1.0).fit(scores, labels)
    return float(model.coef_[0, 0]), float(model.intercept_[0])
