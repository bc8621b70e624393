"""Reports what became of every row of a source: counts, row numbers and first examples of each kind of bad row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from datamodules.contracts.records import BadRowError, Fault

_EXAMPLES = 3
_ROWS_SHOWN = 10


@dataclass
class FaultCount:
    """Rows with one kind of fault."""

    rows: list[int] = field(default_factory=list)
    """0-based row numbers, all of them."""
    examples: list[str] = field(default_factory=list)
    """What was found in the first of them."""


@dataclass
class RowReport:
    """Grows while a source is read, then is written beside the data."""

    source: str
    rows_read: int = 0
    rows_kept: int = 0
    truncated_prompts: int = 0
    """Prompts whose beginning was cut to `max_prompt_length`."""
    truncated_completions: int = 0
    """Completions whose tail was cut to `max_length`; at least one token of each is left."""
    tokenized_apart: int = 0
    """Completions whose first token would have merged with the prompt's last, so that they were tokenised on their own."""
    spelled_special: int = 0
    """Rows whose text spells a special token, which was encoded as the words it is."""
    laid_out: int = 0
    """Rows of text that was laid out with a template before: special tokens that it spells are special."""
    unread_keys: dict[str, int] = field(default_factory=dict)
    """Key of a message that the chat template does not name -> rows that have it."""
    unread_columns: dict[str, int] = field(default_factory=dict)
    """Column with something to say that the format does not read -> rows that have it."""
    likely_formats: dict[str, int] = field(default_factory=dict)
    """Short name of another format -> bad rows that look like those of it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why good rows were left out, as asked -> rows."""
    faults: dict[str, FaultCount] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    """What the folder of the source holds beside its data files."""

    def add(self, row_number: int, error: BadRowError, place: str = "") -> None:
        """Count a bad row; `place` is its file and its row there, where the source has several files."""
        count = self.faults.setdefault(error.fault.value, FaultCount())
        count.rows.append(row_number)
        if len(count.examples) < _EXAMPLES:
            count.examples.append(f"row {row_number}{place and f' ({place})'}: {error.detail}")

    def note(self, *, spells_special: bool, is_laid_out: bool, unread_keys: Iterable[str]) -> None:
        """Count what is worth knowing of a row that is kept."""
        self.spelled_special += spells_special
        self.laid_out += is_laid_out
        _count(self.unread_keys, unread_keys)

    def note_unread(self, columns: Iterable[str]) -> None:
        """Count a good row's columns that were not read."""
        _count(self.unread_columns, columns)

    def note_likely(self, other: str, chosen: str) -> None:
        """Count a bad row that looks like one of another format than the chosen one."""
        if other and other != chosen:
            _count(self.likely_formats, [other])

    def leave_out(self, reason: str) -> None:
        """Count a good row that is left out as asked."""
        _count(self.left_out, [reason])

    @property
    def num_bad(self) -> int:
        """Bad rows of all kinds (each row has one)."""
        return sum(len(count.rows) for count in self.faults.values())

    def has(self, fault: Fault) -> bool:
        """Whether any row has this fault."""
        return fault.value in self.faults

    def require_clean(self) -> None:
        """Refuse bad rows.

        Raises:
            ValueError: if there is one; it names every kind found.
        """
        if self.num_bad:
            raise ValueError(
                f"expected only usable rows, got {self.num_bad} bad ones of {self.rows_read}. Correct them, or leave them out with "
                f"on_bad_row: skip.\n{self.summary()}"
            )

    def summary(self) -> str:
        """A few lines for people."""
        head = (
            f"{self.source}: {self.rows_kept} of {self.rows_read} rows kept, {self.num_bad} bad; {self.truncated_prompts} prompts "
            f"and {self.truncated_completions} completions cut; {self.tokenized_apart} tokenised apart from their prompt"
        )
        return "\n".join([head, *(_describe(name, count) for name, count in self.faults.items()), *self._notes()])

    def _notes(self) -> Iterator[str]:
        for name, count in self.likely_formats.items():
            yield f"  {count} bad rows look like those of another format: --data.format {name}"
        if self.spelled_special:
            yield f"  {self.spelled_special} rows spell a special token; it was encoded as the words it is"
        if self.laid_out:
            yield f"  {self.laid_out} rows of text begin as a template lays text out: their special tokens are special"
        for reason, count in self.left_out.items():
            yield f"  {count} rows left out, as asked: {reason}"
        if self.unread_columns:
            yield f"  columns that the format does not read: {_counts(self.unread_columns)}"
        if self.unread_keys:
            yield f"  keys of messages that the chat template does not read: {_counts(self.unread_keys)}"
        if self.passed_over:
            yield f"  not read: {', '.join(self.passed_over[:_ROWS_SHOWN])}"

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        values = json.loads(path.read_text())
        values["faults"] = {name: FaultCount(**count) for name, count in values["faults"].items()}
        return cls(**values)


def _count(counts: dict[str, int], names: Iterable[str]) -> None:
    for name in names:
        counts[name] = counts.get(name, 0) + 1


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count} rows)" for name, count in counts.items())


def _describe(name: str, count: FaultCount) -> str:
    shown = ", ".join(map(str, count.rows[:_ROWS_SHOWN])) + (", ..." if len(count.rows) > _ROWS_SHOWN else "")
    return "\n".join([f"  {len(count.rows)} x {name} (rows {shown})", *(f"    {example}" for example in count.examples)])
