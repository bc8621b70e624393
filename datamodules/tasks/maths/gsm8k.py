"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems, and other models' answers to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from typing_extensions import override

from datamodules.contracts.records import BadRowError
from datamodules.tasks.base import TaskItem
from datamodules.tasks.maths.maths_rows import MathsRows
from datamodules.tasks.rows import Row, words

_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, kw_only=True)
class GSM8KTask(MathsRows):
    """Rows with `question` and `answer` (it ends with `#### 72`).

    Rows of the original repository's `example_model_solutions.jsonl` are read too: `ground_truth` is the answer, and every
    column that holds an object with a `solution` is another model's response.
    """

    name = "gsm8k"

    keep_calculator: bool = False
    """Whether solutions keep their calculator annotations (`<<48/2=24>>`)."""

    @override
    def parse(self, row: Row) -> TaskItem:
        solution = self._cleaned(words(row, "answer", "ground_truth"))
        return self.item(words(row, "question"), solution, solution, tuple(self._others(row)))

    def _others(self, row: Row) -> Iterator[tuple[str, str]]:
        for model, cell in row.items():
            if isinstance(cell, Mapping) and "solution" in cell:
                try:
                    yield model, self._cleaned(words(cell, "solution"))
                except BadRowError:
                    # A model that said nothing; the problem and the other models' answers stand.
                    continue

    def _cleaned(self, text: str) -> str:
        return text if self.keep_calculator else _CALCULATOR.sub("", text)
