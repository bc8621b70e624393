"""The second family's problems: other stories, other operators, smaller numbers, in words instead of characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from datamodules.tasks.arithmetic.problems import generate
from datamodules.tasks.arithmetic.slips import SLIP, slips
from datamodules.tasks.arithmetic.templates import Step, Template
from datamodules.tasks.base import Task, TaskItem
from judges.arithmetic import ArithmeticJudge

CHORES = (
    Template(
        "queue",
        "{a} people wait at a shop. {b} leave the queue, then {c} join it. How long is the queue?",
        Step("a", "-", "b", "{equation} people stay."),
        Step("r", "+", "c", "With those who came it is {equation}."),
        {"a": (8, 40), "b": (2, 20), "c": (2, 15)},
    ),
    Template(
        "bus",
        "A bus starts with {a} riders. {b} get on at the park and {c} at the school. How many riders?",
        Step("a", "+", "b", "After the park it is {equation}."),
        Step("r", "+", "c", "After the school it is {equation}."),
        {"a": (2, 20), "b": (2, 15), "c": (2, 15)},
    ),
    Template(
        "oven",
        "{name} bakes {a} trays of {b} rolls and {c} burn. How many good rolls are there?",
        Step("a", "*", "b", "The trays hold {equation} rolls."),
        Step("r", "-", "c", "Good ones are {equation}."),
        {"a": (2, 6), "b": (3, 8), "c": (2, 12)},
    ),
    Template(
        "team",
        "{a} children make teams of {b}. {c} teams go home. How many teams stay?",
        Step("a", "/", "b", "There are {equation} teams."),
        Step("r", "-", "c", "Those that stay are {equation}."),
        {"a": (12, 50), "b": (2, 5), "c": (2, 8)},
    ),
    Template(
        "garden",
        "{name} waters {a} beds with {b} cans each and has {c} cans left. How many cans were full at first?",
        Step("a", "*", "b", "The beds took {equation} cans."),
        Step("r", "+", "c", "At first it was {equation}."),
        {"a": (2, 6), "b": (2, 6), "c": (2, 15)},
    ),
    Template(
        "coat",
        "A coat is {a} dollars. {name} pays {b} now and {c} next week. What is still to pay?",
        Step("a", "-", "b", "After today it is {equation}."),
        Step("r", "-", "c", "After next week it is {equation}."),
        {"a": (15, 50), "b": (3, 20), "c": (3, 20)},
    ),
)
"""Each with two steps, like those of the arithmetic task, so that the same judge reads them."""


@dataclass(frozen=True)
class ChoresTask(Task):
    """Problems of `CHORES` with their solutions; a pool has wrong ones beside them, as the responses of another model."""

    name = "chores"

    num_train: int = 0
    """Problems to learn from."""
    num_pool: int = 0
    """Problems to sample responses for."""
    num_test: int = 200
    """Problems that accuracy is measured on."""
    is_terse: bool = False
    """Whether solutions are bare equations; else sentences."""
    num_slips: int = 0
    """Wrong solutions that come with each problem."""
    seed: int = 0
    """Of the problems."""

    @override
    def items(self, split: str) -> Iterator[TaskItem]:
        counts = {"train": self.num_train, "pool": self.num_pool, "val": 0, "test": self.num_test}
        if split not in counts:
            raise ValueError(f"expected one of {', '.join(counts)}, got {split!r}.")
        for problem in generate(split, counts[split], self.seed, CHORES):
            solution = problem.terse if self.is_terse else problem.worded
            others = tuple((SLIP, text) for text in slips(problem, self.num_slips, self.seed))
            # The line break ends the prompt, so that no token spans prompt and answer.
            yield TaskItem(f"{problem.prompt}\n", problem.terse, solution, others)

    @override
    def own_judge(self) -> ArithmeticJudge:
        return ArithmeticJudge()
