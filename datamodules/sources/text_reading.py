"""Settings for making examples of text: the tokenizer and the limits; also reads records that other code has made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.contracts.records import Record
from datamodules.formats.columns import Row, RowFormat
from datamodules.sources.file_rows import RawRow
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.readers import DataSource
from datamodules.sources.store import ExampleStore
from datamodules.tokens.encoding import PromptEncoder
from datamodules.tokens.tokenization import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnBadRow = Literal["error", "skip"]


@dataclass(frozen=True)
class TextReading:
    """How text becomes examples: the part that all data modules of text have."""

    tokenizer_name: str
    """Folder, hub name, or `.gguf` file."""
    limits: LengthLimits
    """What is cut."""
    on_bad_row: OnBadRow = "error"
    """Whether a bad row stops the run, or is left out and counted."""
    trust_remote_code: bool = False
    """Whether Python files that come with the tokenizer are run."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with an end-of-sequence token."""
        return load_tokenizer(self.tokenizer_name, trust_remote_code=self.trust_remote_code)

    def prepared(self, name: str, records: Iterable[Record]) -> ExampleStore:
        """Records that other code has made, checked, tokenised and cut as the rows of a file are; the log says what became of them.

        Args:
            name: what they are called in the report.
            records: with row numbers that mean something to the reader of the report.

        Raises:
            ValueError: if no record is left, or one is bad and `on_bad_row` is "error".
        """
        source = _Records(name, records=tuple(records))
        store, report = Preparation(source, _AsItIs(), PromptEncoder(self.tokenizer), self.limits).run()
        rank_zero_info(report.summary())
        if self.on_bad_row == "error":
            report.require_clean()
        return store


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
        record = row["record"]
        assert isinstance(record, Record), "rows here are made of records"
        return record
