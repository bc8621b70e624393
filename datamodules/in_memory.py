"""Records that other code has made, through the same checks as the rows of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.prompts import TaskPrompt
from datamodules.sources.encoding import PromptEncoder
from datamodules.sources.file_rows import RawRow
from datamodules.sources.formats import Row, RowFormat
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.sources.records import Record
from datamodules.sources.store import ExampleStore
from datamodules.tasks.base import TaskItem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnBadRow = Literal["error", "skip"]


def prepare_records(
    name: str, records: Iterable[Record], tokenizer: PreTrainedTokenizerBase, limits: LengthLimits, on_bad_row: OnBadRow
) -> ExampleStore:
    """Check, tokenise and cut records; what became of them goes to the log.

    Args:
        name: what they are called in the report.
        records: with row numbers that mean something to the reader of the report.
        tokenizer: with an end-of-sequence token.
        limits: what is cut.
        on_bad_row: whether a bad record stops the run or is left out.

    Raises:
        ValueError: if no record is left, or one is bad and `on_bad_row` is "error".
    """
    source = _Records(name, records=tuple(records))
    store, report = Preparation(source, _AsItIs(), PromptEncoder(tokenizer), limits).run()
    rank_zero_info(report.summary())
    if on_bad_row == "error":
        report.require_clean()
    return store


def encode_prompts(items: Sequence[TaskItem], tokenizer: PreTrainedTokenizerBase) -> list[TaskPrompt]:
    """The problems with the ids that their prompts have in training, too."""
    encoded = PromptEncoder(tokenizer).encode([Record(item.text, (), number) for number, item in enumerate(items)])
    prompts = []
    for item, record in zip(items, encoded, strict=True):
        if isinstance(record, Exception):
            raise ValueError(f"expected prompts that the tokenizer can encode, got {item.prompt!r}: {record}")
        prompts.append(TaskPrompt(item, tuple(record.prompt_ids)))
    return prompts


@dataclass(frozen=True)
class _Records(DataSource):
    records: tuple[Record, ...] = ()

    @override
    def parts(self) -> Iterator[tuple[str, Iterable[RawRow]]]:
        yield "", ({"record": record} for record in self.records)

    @override
    def count(self) -> int:
        return len(self.records)

    @override
    def passed_over(self) -> list[str]:
        return []


@dataclass(frozen=True)
class _AsItIs(RowFormat):
    @override
    def parse(self, row: Row, row_number: int) -> Record:
        return cast(Record, row["record"])
