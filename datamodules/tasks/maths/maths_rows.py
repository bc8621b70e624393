"""The base of maths tasks that read rows: the prompt that asks the model to solve a problem."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from datamodules.tasks.base import TaskItem
from datamodules.tasks.rows import RowTask
from judges.maths import MathsJudge


@dataclass(frozen=True, kw_only=True)
class MathsRows(RowTask):
    """Word problems with a gold answer that the maths judge reads."""

    template: str = "Question: {question}\nAnswer:\n"
    """The prompt; `{question}` stands where the problem goes."""

    def __post_init__(self) -> None:
        if "{question}" not in self.template:
            raise ValueError(f"expected a template with {{question}} in it, got {self.template!r}.")

    @override
    def own_judge(self) -> MathsJudge:
        return MathsJudge()

    def item(self, question: str, answer: str, solution: str | None = None, others: tuple[tuple[str, str], ...] = ()) -> TaskItem:
        """The problem in the template."""
        prompt = self.template.replace("{question}", question)
        return TaskItem(prompt, answer, solution, others, is_chat=self.is_chat)
