"""The embedded task: two-step arithmetic word problems, generated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from datamodules.contracts.ranges import require_at_least
from datamodules.tasks.arithmetic.problems import Problem, generate
from datamodules.tasks.arithmetic.slips import SLIP, slips
from datamodules.tasks.base import Task, TaskItem
from judges.arithmetic import ArithmeticJudge


@dataclass(frozen=True)
class ArithmeticTask(Task):
    """Word problems with numbers up to 50, their solutions in two styles.

    The gold answer is always the terse solution, whose steps the exact judge reads.
    """

    name = "arithmetic"

    num_train: int = 0
    """Problems to learn from."""
    num_pool: int = 0
    """Problems to sample responses for."""
    num_val: int = 0
    """Problems for the validation loss."""
    num_test: int = 200
    """Problems that accuracy is measured on."""
    terse_share: float = 1.0
    """Share of the solutions in bare equations, in [0, 1]; the others are in sentences."""
    num_slips: int = 0
    """Wrong solutions that come with each problem, as the responses of another model called `slip`."""
    seed: int = 0
    """Seed of the problems and of each solution's style."""

    def __post_init__(self) -> None:
        if not 0 <= self.terse_share <= 1:
            raise ValueError(f"expected terse_share in [0, 1], got {self.terse_share}.")
        require_at_least(0, num_train=self.num_train, num_pool=self.num_pool, num_val=self.num_val, num_test=self.num_test)
        require_at_least(0, num_slips=self.num_slips, seed=self.seed)

    @override
    def items(self, split: str) -> Iterator[TaskItem]:
        counts: dict[str, int] = {"train": self.num_train, "pool": self.num_pool, "val": self.num_val, "test": self.num_test}
        if split not in counts:
            raise ValueError(f"expected one of {', '.join(counts)}, got {split!r}.")
        for problem in generate(split, counts[split], self.seed):
            solution = problem.terse if self._is_terse(problem) else problem.worded
            others = tuple((SLIP, text) for text in slips(problem, self.num_slips, self.seed))
            yield TaskItem(problem.prompt, problem.terse, solution, others)

    @override
    def own_judge(self) -> ArithmeticJudge:
        return ArithmeticJudge()

    def _is_terse(self, problem: Problem) -> bool:
        digest = hashlib.sha256(f"{self.seed}:{problem.prompt}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.terse_share * 2**64
