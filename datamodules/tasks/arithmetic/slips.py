"""Worked solutions with an error, offered as the responses of another model.

The slips are those that the shipped model makes when it is sampled: nine of ten of its wrong solutions combine the right
numbers and miss the result of one step, or of both, mostly by 2, 1 or 10.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from datamodules.tasks.arithmetic.problems import Problem
from datamodules.tasks.arithmetic.templates import Step

SLIP = "slip"
"""Name of the source."""

_LARGEST = 99
_NEAR = (*(2, -2) * 6, *(1, -1) * 3, *(10, -10) * 2, *(3, -3), *(4, -4), *(8, -8))
"""Errors of a sum or a difference. Each is drawn as often as it is listed."""
_STEPS = ((0,), (0,), (1,), (1,), (0, 1))
"""The steps that are wrong."""


def slips(problem: Problem, count: int, seed: int) -> Iterator[str]:
    """`count` wrong solutions, none twice, in either style; the same for the same problem and seed everywhere.

    The result of the first step, of the second, or of both is a near miss. What follows from a wrong result is computed from it,
    a division that leaves a rest cut to a whole number.
    """
    rng = random.Random(f"slip:{seed}:{problem.prompt}")
    seen: set[str] = set()
    while len(seen) < count:
        text = problem.plot.solution(_missed(rng, problem), is_terse=rng.random() < 0.5)
        if text not in seen:
            seen.add(text)
            yield text


def _missed(rng: random.Random, problem: Problem) -> tuple[int, int]:
    """Results, each within [1, 99]; at least one is wrong."""
    plot = problem.plot
    missed = _STEPS[int(rng.random() * len(_STEPS))]
    while True:
        first = problem.results[0]
        first += _miss(rng, plot.template.first, plot.numbers) if 0 in missed else 0
        if first < 1:
            continue
        values = {**plot.numbers, "r": first}
        second = _cut(plot.template.second, values)
        second += _miss(rng, plot.template.second, values) if 1 in missed else 0
        if 1 <= second <= _LARGEST and first <= _LARGEST and (first, second) != problem.results:
            return first, second


def _miss(rng: random.Random, step: Step, values: Mapping[str, int]) -> int:
    """What to add to a right result: of a product, mostly a row or a column of the times table."""
    near: tuple[int, ...] = _NEAR
    if step.operator == "*":
        left, right = values[step.left], values[step.right]
        near = (*(left, -left, right, -right) * 2, 1, -1, 2, -2, 10, -10)
    elif step.operator == "/":
        near = (1, -1, 1, -1, 2, -2, 3, -3)
    return near[int(rng.random() * len(near))]


def _cut(step: Step, values: Mapping[str, int]) -> int:
    left, right = values[step.left], values[step.right]
    match step.operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left // right
