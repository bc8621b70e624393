"""A task from a file of prompts: for sampling, judging and testing without a task class."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from datamodules.formats.cells import joined_cells, number_cell
from datamodules.tasks.base import TaskItem
from datamodules.tasks.rows import Row, RowTask, words


@dataclass(frozen=True, kw_only=True)
class PromptFile(RowTask):
    """Rows of a prompt and, where they have it, a gold answer; of a `.txt` file, every line is a prompt."""

    name = "prompts"

    prompt: tuple[str, ...] | str = "prompt"
    """Column of the prompt. Several are joined by a line break; of those, empty ones are passed over."""
    answer: str | None = "answer"
    """Column of the gold answer that a judge compares with, text or a number, where a row has one. null reads none."""
    template: str = "{prompt}"
    """What the model gets; `{prompt}` stands where the prompt goes."""

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError(f"expected a template with {{prompt}} in it, got {self.template!r}.")

    @override
    def parse(self, row: Row) -> TaskItem:
        asked = words(row, self.prompt) if isinstance(self.prompt, str) else joined_cells(row, self.prompt, "\n").strip()
        return TaskItem(self.template.replace("{prompt}", asked), self._answer(row), is_chat=self.is_chat)

    def _answer(self, row: Row) -> str | None:
        cell = row.get(self.answer) if self.answer is not None else None
        if cell is None or cell == "":
            return None
        if isinstance(cell, int | float):
            number_cell(row, self.answer)  # refuses what is no number
            return str(cell)
        return words(row, str(self.answer))
