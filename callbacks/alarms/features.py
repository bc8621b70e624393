"""Features that the warning reads, in units that mean the same on every model: shares, and changes over the spread at step 0.

Every feature is 0 at step 0, and larger means worse. Definitions: docs/results/verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_BANK = "likelihood/bank"
OFF_DATA, OFF_PAIR = "dispersion/bank/off_data_mass", "dispersion/bank/off_pair_mass"
BOTH_DOWN = "degradation/bank/quadrant/both_down"
CHOSEN_MOVED, REJECTED_MOVED, CHOSEN_LOST = "mass/chosen/moved", "mass/rejected/moved", "mass/chosen/to_off_data"
SURE = "dispersion/bank/chosen/top1_mass"
ACCURACY, PROBLEMS = "task/accuracy", "task/problems"
KINDS = ("chosen", "rejected", "other_chosen")

MIN_SPREAD = 1e-3
"""Nats per token. A kind of completion that varies by less at step 0 is as good as certain."""
MIN_REJECTED_FALL = 0.05
"""Spreads. Below it, what falls with the rejected completions is compared with nothing."""
MAX_COLLATERAL = 2.0
MIN_DOUBT = 1e-3

Readings = Mapping[str, float]


def change_of(kind: str) -> str:
    """Metric: change of a kind of completion since step 0, nats per token."""
    return f"{_BANK}/{kind}/change_per_token"


def spread_of(kind: str) -> str:
    """Metric: standard deviation over the bank of the kind's log-likelihood, nats per token."""
    return f"{_BANK}/{kind}/logp_per_token_spread"


METRICS = frozenset(
    {*map(change_of, KINDS), *map(spread_of, KINDS), OFF_DATA, OFF_PAIR, BOTH_DOWN, SURE, CHOSEN_MOVED, REJECTED_MOVED, CHOSEN_LOST}
)
"""What all features of the bank together are made of."""

JUDGED = frozenset({ACCURACY, PROBLEMS})
"""What is read where answers are judged."""

_AS_SOON_AS_MASS_MOVES = frozenset({CHOSEN_LOST})
"""Written only once something has moved, so a missing reading is not an error."""


@dataclass(frozen=True)
class Feature:
    """One reading of a warning."""

    name: str
    property: str
    """The paper's property that it is a sign of."""
    of: Callable[[Readings, Readings], float]
    """Its value from the first readings of the run and the latest; below 0 counts as 0."""
    is_share: bool
    """Whether it lies in [0, 1]."""
    says: str
    """A clause; `{value}` stands for the value."""

    def size(self, first: Readings, latest: Readings) -> float:
        """The value as the model takes it, >= 0: the square root of a share, log(1 + x) of another, so that ruin sets no scale."""
        value = self.value(first, latest)
        return math.sqrt(value) if self.is_share else math.log1p(value)

    def value(self, first: Readings, latest: Readings) -> float:
        """The value, >= 0."""
        return max(self.of(first, latest), 0.0)


def fall(kind: str, first: Readings, latest: Readings) -> float:
    """Fall of a kind of completion since step 0, in its own spread over the bank at step 0."""
    return -latest[change_of(kind)] / max(first[spread_of(kind)], MIN_SPREAD)


def _collateral(first: Readings, latest: Readings) -> float:
    if fall("rejected", first, latest) < MIN_REJECTED_FALL:
        return 0.0
    return min(latest[change_of("other_chosen")] / latest[change_of("rejected")], MAX_COLLATERAL)


def _left(metric: str) -> Callable[[Readings, Readings], float]:
    """Growth of an outside mass, as a share of what was inside."""
    return lambda first, latest: (latest[metric] - first[metric]) / max(1 - first[metric], 1e-6)


def _lost(first: Readings, latest: Readings) -> float:
    return latest[CHOSEN_MOVED] * latest.get(CHOSEN_LOST, 0.0)


def fall_beyond_chance(start: float, now: float, variance: float, number: float) -> float:
    """Fall of a mean over `number` answers less one standard error; `variance`: of a score at the start plus that of one now."""
    return start - now - math.sqrt(variance / number)


def _judged(first: Readings, latest: Readings) -> float:
    if not first.keys() >= JUDGED:
        return 0.0
    start, now = first[ACCURACY], latest[ACCURACY]
    return fall_beyond_chance(start, now, start * (1 - start) + now * (1 - now), latest[PROBLEMS])


FEATURES = (
    Feature(
        "others_fall",
        "drastic_drop",
        lambda first, latest: fall("other_chosen", first, latest),
        False,
        "other prompts' chosen answers fell by {value:.2f} of their spread",
    ),
    Feature(
        "collateral",
        "drastic_drop",
        _collateral,
        False,
        "they fell {value:.2f} times as far as the rejected answers",
    ),
    Feature(
        "chosen_fall",
        "suppression",
        lambda first, latest: fall("chosen", first, latest),
        False,
        "chosen answers fell by {value:.2f} of their spread",
    ),
    Feature(
        "both_down",
        "suppression",
        lambda first, latest: latest[BOTH_DOWN],
        True,
        "both sides fell in {value:.0%} of the pairs",
    ),
    Feature(
        "off_data_growth",
        "dispersion",
        _left(OFF_DATA),
        True,
        "{value:.1%} of the mass left what the data knows",
    ),
    Feature(
        "off_pair_growth",
        "dispersion",
        _left(OFF_PAIR),
        True,
        "{value:.1%} of the mass left both sides where pairs part",
    ),
    Feature(
        "chosen_moved",
        "dispersion",
        lambda first, latest: latest[CHOSEN_MOVED],
        True,
        "{value:.1%} of the mass along chosen answers moved",
    ),
    Feature(
        "chosen_lost",
        "dispersion",
        _lost,
        True,
        "{value:.1%} of the mass along chosen answers went to tokens that no known answer has there",
    ),
    Feature(
        "rejected_moved",
        "drastic_drop",
        lambda first, latest: latest[REJECTED_MOVED],
        True,
        "{value:.1%} of the mass along rejected answers moved",
    ),
    Feature(
        "lost_beyond_doubt",
        "dispersion",
        lambda first, latest: _lost(first, latest) / max(1 - first[SURE], MIN_DOUBT),
        True,
        "along chosen answers {value:.2f} times the doubt there was at first went to tokens that no known answer has there",
    ),
    Feature(
        "judged_fall",
        "worse_answers",
        _judged,
        True,
        "{value:.1%} fewer held-out problems are solved, beyond one standard error",
    ),
)
"""In the order of the table in docs/results/verdict."""


IN_MODEL = ("others_fall", "chosen_fall", "off_pair_growth", "lost_beyond_doubt")
"""Those that the shipped warning weighs; the others are written, and notices name some of them."""

WITH_JUDGED = (*IN_MODEL, "judged_fall")
"""Those that it weighs where answers are judged."""


def lacking(readings: Readings) -> list[str]:
    """Metrics that no feature can do without and that were not read."""
    return sorted(METRICS - _AS_SOON_AS_MASS_MOVES - readings.keys())
