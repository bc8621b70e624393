"""Two-step arithmetic word problems from a seed, with worked solutions and splits that never share their numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from datamodules.tasks.arithmetic.templates import NAMES, TEMPLATES, THINGS, Step, Template

T = TypeVar("T")

MAX_RESULT = 50
_SHARES: tuple[tuple[str, int], ...] = (("train", 16), ("pool", 2), ("val", 1), ("test", 1))  # of 20
_PER_SHARE = 20_000  # problems a share, well below what there is: drawing distinct ones stays fast
_OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left // right if left % right == 0 else -1,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """The parts of a problem."""

    template: Template
    numbers: Mapping[str, int]
    """By their letters in the story."""
    words: Mapping[str, str]
    """`name` and `things`."""

    def solution(self, results: tuple[int, int], is_terse: bool) -> str:
        """Both steps with these results, right or wrong, in one of the two styles; the second is the answer."""
        first, second = results
        steps = ((self.template.first, first, self.numbers), (self.template.second, second, {**self.numbers, "r": first}))
        lines = []
        for step, result, values in steps:
            equation = f"{values[step.left]} {step.operator} {values[step.right]} = {result}"
            lines.append(equation if is_terse else step.sentence.format(equation=equation, **self.words))
        return "\n".join([*lines, f"#### {second}"])


@dataclass(frozen=True, slots=True)
class Problem:
    """A story, its solution in two styles, and its answer."""

    prompt: str
    worded: str
    """Solution in sentences, each step a line, the answer in the last (`#### 24`): what the base model is taught most."""
    terse: str
    """The same in bare equations: the data set's own solutions have this style."""
    key: str
    """Template and numbers: two problems of one key differ in names and things alone."""
    plot: Plot
    results: tuple[int, int]
    """The results of the two steps."""


def generate(split: str, count: int, seed: int, templates: Sequence[Template] = TEMPLATES) -> Iterator[Problem]:
    """`count` problems of a split, no prompt twice.

    The splits are disjoint by key, whatever the seeds: a problem belongs to the split that the hash of its key says, so
    that the numbers of a held-out problem were never trained on, under no name.

    Args:
        split: which part of all problems.
        count: how many; a larger one goes on where a smaller one ends.
        seed: of the stream; the same on every machine and Python version.
        templates: the stories; those of the task by default.

    Raises:
        ValueError: if more are asked for than there surely are.
    """
    if count > (largest := dict(_SHARES)[split] * _PER_SHARE):
        raise ValueError(f"expected at most {largest} problems for {split}, got {count}. Ask for fewer.")
    rng = random.Random(f"arithmetic:{split}:{seed}")
    seen: set[str] = set()
    while len(seen) < count:
        problem = _draw(rng, _choice(rng, templates))
        if split_of(problem.key) == split and problem.prompt not in seen:
            seen.add(problem.prompt)
            yield problem


def split_of(key: str) -> str:
    """The split that a key belongs to, for good: 16, 2, 1 and 1 twentieths for train, pool, val and test."""
    part = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % sum(share for _, share in _SHARES)
    for split, share in _SHARES:
        if part < share:
            return split
        part -= share
    raise AssertionError("the shares cover every part")


def _draw(rng: random.Random, template: Template) -> Problem:
    numbers = {letter: _integer(rng, *bounds) for letter, bounds in template.ranges.items()}
    while (results := _results(template, numbers)) is None:
        numbers = {letter: _integer(rng, *bounds) for letter, bounds in template.ranges.items()}
    plot = Plot(template, numbers, {"name": _choice(rng, NAMES), "things": _choice(rng, THINGS)})
    worded, terse = (plot.solution(results, is_terse) for is_terse in (False, True))
    key = f"{template.name}:" + ",".join(map(str, numbers.values()))
    return Problem(template.question.format(**plot.words, **numbers), worded, terse, key, plot, results)


def _results(template: Template, numbers: dict[str, int]) -> tuple[int, int] | None:
    """The results of both steps; None unless both are whole numbers of at least two and at most `MAX_RESULT`."""
    first = _result(template.first, numbers)
    second = _result(template.second, numbers | {"r": first})
    return (first, second) if all(2 <= result <= MAX_RESULT for result in (first, second)) else None


def _result(step: Step, values: Mapping[str, int]) -> int:
    return _OPERATORS[step.operator](values[step.left], values[step.right])


# random() is the one method whose numbers Python promises never to change.
def _integer(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _choice(rng: random.Random, items: Sequence[T]) -> T:
    return items[_integer(rng, 0, len(items) - 1)]
