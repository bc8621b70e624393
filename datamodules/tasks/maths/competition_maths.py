"""MATH (Hendrycks et al. 2021, arXiv 2103.03874): competition problems with worked solutions."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from datamodules.tasks.base import TaskItem
from datamodules.tasks.maths.maths_rows import MathsRows
from datamodules.tasks.rows import Row, words


@dataclass(frozen=True, kw_only=True)
class CompetitionMathsTask(MathsRows):
    r"""Rows with `problem` and `solution`; the gold answer is the solution's `\boxed{...}`.

    Reads the hub's copies and the original folder of one JSON file a problem (`MATH/train/*/*.json`) alike.
    """

    name = "math"

    levels: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Difficulties to keep, 1 to 5; the few problems without one ("Level ?") are kept if all are."""

    @override
    def parse(self, row: Row) -> TaskItem | None:
        level = str(row.get("level", "")).removeprefix("Level ")
        if len(self.levels) < 5 and level not in map(str, self.levels):
            return None
        solution = words(row, "solution")
        return self.item(words(row, "problem"), solution, solution)
