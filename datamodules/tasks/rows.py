"""Tasks whose problems are rows of a file, a folder or a hub data set."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.records import BadRowError, Fault
from datamodules.formats.cells import text_cell
from datamodules.sources.file_rows import NAMED_READERS
from datamodules.sources.parsed_rows import parsed_rows
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.tasks.base import Task, TaskItem
from datamodules.tasks.leaks import prompt_key, without_held_out

Row = Mapping[str, object]


@dataclass(frozen=True)
class TaskRows(DataSource):
    """Rows of a source, some of them. Two splits may be parts of one source: same `shuffle_seed`, ranges that do not meet.

    Beside the formats of `DataSource`, a file may be plain text (`.txt`): each line is a row with one column, `prompt`.
    """

    endings: ClassVar[Sequence[str]] = tuple(NAMED_READERS)

    shuffle_seed: int | None = None
    """Puts the rows in random order first; null keeps that of the source."""
    skip: int = 0
    """Rows to leave out at the beginning."""
    limit: int | None = None
    """Rows at the most; all by default."""

    def __post_init__(self) -> None:
        require_at_least(0, shuffle_seed=self.shuffle_seed, skip=self.skip)
        require_at_least(1, limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class RowTask(Task):
    """Problems from rows; a subclass says what a row means (`parse`).

    Training and pool rows whose prompt is held out, exactly or after normalisation, are left out and counted.

    Raises:
        ValueError: where a split is read, if rows are bad and `on_bad_row` is "error".
    """

    train: TaskRows | None = None
    """Problems to learn from."""
    pool: TaskRows | None = None
    """Problems to sample responses for."""
    val: TaskRows | None = None
    """Problems for the validation loss."""
    test: TaskRows | None = None
    """Problems for the results."""
    is_chat: bool = False
    """Whether prompts are user messages for the tokenizer's chat template."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Bad rows stop the run, or are left out and counted in the log."""

    @abstractmethod
    def parse(self, row: Row) -> TaskItem | None:
        """The problem of a row; None if the task was told to leave such rows out.

        Raises:
            BadRowError: if the row has not what the task needs.
        """

    @override
    def items(self, split: str) -> Iterator[TaskItem]:
        sources = {"train": self.train, "pool": self.pool, "val": self.val, "test": self.test}
        if split not in sources:
            raise ValueError(f"expected one of {', '.join(sources)}, got {split!r}.")
        if (source := sources[split]) is None:
            return
        items = iter(self._selected(source, may_repeat=split == "train"))
        if split in ("train", "pool"):
            held_out = chain.from_iterable(map(self.items, ("val", "test")))
            items = without_held_out(items, held_out, f"{self.name} {split}")
        yield from items

    def _selected(self, rows: TaskRows, *, may_repeat: bool) -> list[TaskItem]:
        items = list(self._parsed(rows))
        if rows.shuffle_seed is not None:
            random.Random(rows.shuffle_seed).shuffle(items)
        chosen = items[rows.skip :][: rows.limit]
        if may_repeat:
            return chosen
        # Training keeps several solutions to one prompt; for sampling and tests a prompt counts once, as it first comes.
        return list({prompt_key(item.prompt): item for item in reversed(chosen)}.values())[::-1]

    def _parsed(self, source: DataSource) -> Iterator[TaskItem]:
        report = RowReport(source.path, passed_over=source.passed_over())
        for _, item in parsed_rows(source, report, lambda row, _: self.parse(row)):
            if item is not None:
                report.rows_kept += 1
                yield item
        if self.on_bad_row == "error":
            report.require_clean()
        if report.num_bad:
            rank_zero_info(report.summary())


def words(row: Row, *columns: str) -> str:
    """The text, without blanks around it, of the first of the columns that the row has.

    Raises:
        BadRowError: if the row has none of them, or it holds no text.
    """
    column = next((name for name in columns if row.get(name) is not None), columns[0])
    text = text_cell(row, column)
    if not isinstance(text, str):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds messages; expected text")
    if not text.strip():
        raise BadRowError(Fault.EMPTY_PROMPT, f"{column!r} is {text!r}")
    return text.strip()
