"""Chinese word problems, for testing out of distribution alone: SuperCLUE-Math6 (arXiv 2401.11819), Ape210K (arXiv 2009.11506)."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from datamodules.tasks.base import TaskItem
from datamodules.tasks.maths.maths_rows import MathsRows
from datamodules.tasks.rows import Row, words


@dataclass(frozen=True, kw_only=True)
class ChineseMathsTask(MathsRows):
    """Rows with `question` and `answer` (SuperCLUE-Math6, its first turn) or `original_text` and `ans` (Ape210K).

    There is only a test split, as in the paper: nothing is learnt from these problems.
    """

    name = "chinese_maths"

    template: str = "{question}\n请写出解题过程，最后一行写出答案，格式为【答案】。\n"
    """The prompt; `{question}` stands where the problem goes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train is not None or self.pool is not None or self.val is not None:
            raise ValueError(
                "expected a test split only, because these problems are for out-of-distribution tests. Remove the others."
            )

    @override
    def parse(self, row: Row) -> TaskItem:
        return self.item(words(row, "question", "original_text"), words(row, "answer", "ans"))
