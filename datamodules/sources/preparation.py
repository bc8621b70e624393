"""Turns a source into a store of examples: reads, checks, tokenises and cuts its rows, and reports on every row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.records import BadRowError, Fault, Record, is_blank
from datamodules.formats.columns import Row, RowFormat
from datamodules.formats.likely_format import likely_format
from datamodules.formats.watched_row import WatchedRow
from datamodules.sources.parsed_rows import parsed_rows
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore
from datamodules.sources.store_writer import StoreWriter
from datamodules.tokens.encoding import EncodedRecord, PromptEncoder

# Records tokenised in one call: enough to keep the tokenizer's threads busy, few enough to keep memory flat.
_CHUNK = 512


@dataclass(frozen=True)
class LengthLimits:
    """What is cut, in tokens. The end of a prompt and the beginning of a completion are kept, at least one token of each."""

    max_length: int
    """Prompt and one completion together, >= 2."""
    max_prompt_length: int | None = None
    """Prompt, >= 1; uncut by default."""

    @property
    def longest(self) -> int:
        """Tokens of a prompt or a completion that matter: a longer prompt leaves no room."""
        return max(self.max_length, self.max_prompt_length or 0)

    def __post_init__(self) -> None:
        if self.max_length < 2 or (self.max_prompt_length is not None and self.max_prompt_length < 1):
            raise ValueError(
                f"expected max_length >= 2 and max_prompt_length >= 1, got {self.max_length} and {self.max_prompt_length}. "
                "A prompt and a completion need a token each."
            )


class Preparation:
    """Turns the rows of one source into examples.

    Args:
        source: where the rows are.
        format: what their columns mean.
        encoder: tokenises.
        limits: what is cut.
        rows: numbers of the rows that are wanted; all by default. Of some there may be none left.
        spill_to: an existing folder for tokens that are many (see `StoreWriter`); in memory by default.
    """

    def __init__(
        self,
        source: DataSource,
        format: RowFormat,
        encoder: PromptEncoder,
        limits: LengthLimits,
        rows: Collection[int] | None = None,
        spill_to: Path | None = None,
    ) -> None:
        self._source = source
        self._rows = rows
        self._format = format
        self._encoder = encoder
        self._limits = limits
        self._report = RowReport(source.path, passed_over=source.passed_over())
        self._writer = StoreWriter(spill_to)
        self._seen: set[bytes] = set()

    def run(self) -> tuple[ExampleStore, RowReport]:
        """Read everything; bad rows are left out and reported.

        Raises:
            ValueError: if no row is left.
        """
        total = self._source.count() if self._rows is None else len(self._rows)
        # It shows after a second: most sources take less.
        with tqdm(desc="Reading and tokenising", total=total, unit=" rows", leave=False, delay=1) as bar:
            for records in _chunks(self._records()):
                for record, encoded in zip(records, self._encoder.encode(records, self._limits.longest), strict=True):
                    self._add(record, encoded)
                bar.update(self._report.rows_read - bar.n)
        if not self._report.rows_kept and self._rows is None:
            remedy = (
                "Check the columns that `format` names, and the limits on lengths." if self._report.rows_read else "It is empty."
            )
            raise ValueError(
                f"expected a usable row, got none: nothing is left after filtering. {remedy}\n{self._report.summary()}"
            )
        return ExampleStore(self._writer.arrays()), self._report

    def _records(self) -> Iterator[Record]:
        for _, record in parsed_rows(self._source, self._report, self._parsed, self._rows):
            yield record

    def _parsed(self, row: Row, row_number: int) -> Record:
        watched = WatchedRow(row)
        try:
            record = self._format.read(watched, row_number)
        except BadRowError as error:
            if error.fault in (Fault.MISSING_FIELD, Fault.WRONG_TYPE):
                self._report.note_likely(likely_format(row), self._format.short_name)
            raise
        self._check(record)
        self._report.note_unread(watched.unread())
        return record

    def _check(self, record: Record) -> None:
        texts = [completion.text for completion in record.completions]
        if is_blank(record.prompt):
            raise BadRowError(Fault.EMPTY_PROMPT, f"the prompt is {record.prompt!r}")
        for completion in record.completions:
            if is_blank(completion.text):
                raise BadRowError(Fault.EMPTY_COMPLETION, f"the {completion.kind} completion is {completion.text!r}")
            if completion.score is not None and not math.isfinite(completion.score):
                raise BadRowError(
                    Fault.WRONG_TYPE, f"the {completion.kind} completion scores {completion.score}; expected a finite number"
                )
        if len(set(texts)) < len(texts):
            raise BadRowError(Fault.SAME_COMPLETIONS, f"both are {str(texts[0])[:80]!r}")
        digest = hashlib.sha256(repr((record.prompt, record.tools, texts)).encode("utf-8", "surrogatepass")).digest()[:16]
        if digest in self._seen:
            raise BadRowError(Fault.DUPLICATE, f"an earlier row has the same prompt and completions: {str(record.prompt)[:80]!r}")
        self._seen.add(digest)

    def _add(self, record: Record, encoded: EncodedRecord | BadRowError) -> None:
        try:
            if isinstance(encoded, BadRowError):
                raise encoded
            self._writer.add(self._example(record, encoded))
            self._report.rows_kept += 1
            self._report.note(
                spells_special=encoded.spells_special, is_laid_out=encoded.is_laid_out, unread_keys=encoded.unread_keys
            )
        except BadRowError as error:
            self._report.add(record.row_number, error)

    def _example(self, record: Record, encoded: EncodedRecord) -> Example:
        limit = self._limits.max_prompt_length
        prompt = encoded.prompt_ids if limit is None else self._encoder.keep_end(encoded.prompt_ids, limit)
        room = self._limits.max_length - len(prompt)
        if room < 1:
            raise BadRowError(
                Fault.NO_ROOM, f"the prompt has {len(prompt)} tokens or more, max_length is {self._limits.max_length}"
            )
        completions = [ids[:room] for ids in encoded.completion_ids]
        if len(set(map(tuple, completions))) < len(completions):
            raise BadRowError(Fault.SAME_WHEN_CUT, f"the completions share their first {room} tokens, all that fit")
        self._report.truncated_prompts += len(prompt) < len(encoded.prompt_ids)
        self._report.truncated_completions += sum(len(ids) > room for ids in encoded.completion_ids)
        self._report.tokenized_apart += encoded.num_apart
        return Example(
            prompt_ids=tuple(prompt),
            completions=tuple(
                TokenizedCompletion(tuple(ids), completion.role, completion.kind, completion.score)
                for completion, ids in zip(record.completions, completions, strict=True)
            ),
            row_number=record.row_number,
        )


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
