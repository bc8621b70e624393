"""Which remedies are tried for how many steps, so that all fits the time: all to the end, or the better half again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a fork takes, as the control has shown."""

    setup: float
    """Seconds before the first step: models, data, the checkpoint."""
    step: float
    reading: float

    def of(self, steps: int) -> float:
        """Seconds of one fork over so many steps, with one reading."""
        return self.setup + steps * self.step + self.reading


def rungs_of(steps: int) -> list[int]:
    """Steps after which remedies may be dropped, and the last one: a quarter, a half, all."""
    return sorted({math.ceil(steps / 4), math.ceil(steps / 2), steps})


def planned_rungs(number: int, steps: int, cost: Cost, budget: float, done: int = 0) -> list[int] | None:
    """The steps at which remedies are compared; only the last where all can go to the end.

    Args:
        number: of remedies that train.
        steps: of a whole fork.
        cost: of the control's first stretch.
        budget: seconds that are left.
        done: steps that the control has taken; it goes as far as the last comparison.

    Returns:
        Rungs, or None where not even the first one fits for all.
    """
    rungs = rungs_of(steps)
    ways = [
        [steps],
        *(rungs[first:] for first in range(1, len(rungs))),
        rungs,
        *(rungs[:kept] for kept in range(len(rungs) - 1, 0, -1)),
    ]
    return next((way for way in ways if halving_seconds(number, way, cost) + control_seconds(way, cost, done) <= budget), None)


def control_seconds(rungs: Sequence[int], cost: Cost, done: int) -> float:
    """Seconds until the control has come to the last comparison too, read at each on the way."""
    ahead = [rung for rung in rungs if rung > done]
    return cost.of(ahead[-1] - done) + (len(ahead) - 1) * cost.reading if ahead else 0.0


def halving_seconds(number: int, rungs: Sequence[int], cost: Cost) -> float:
    """Seconds for all rungs, the better half going on at each."""
    seconds, before = 0.0, 0
    for rung in rungs:
        seconds += number * cost.of(rung - before)
        number, before = survivors(number), rung
    return seconds


def survivors(number: int) -> int:
    """How many of so many go on."""
    return max(1, math.ceil(number / 2))


def least_budget(number: int, steps: int, cost: Cost) -> float:
    """Seconds for the first rung alone: the smallest budget with an answer."""
    return number * cost.of(rungs_of(steps)[0])
