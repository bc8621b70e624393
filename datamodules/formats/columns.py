"""The contract of a format, and the formats that read named columns. A config names a format by its short name or `class_path`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import (
    BadRowError,
    CompletionRecord,
    Fault,
    Record,
    RowLeftOut,
    Text,
    as_messages,
    in_chat,
)
from datamodules.formats.cells import conversation, joined_cells, number_cell, text_cell
from datamodules.formats.messages import parse_tools, require_reply

Row = Mapping[str, object]
"""Column name -> cell."""


@dataclass(frozen=True, kw_only=True)
class RowFormat(ABC):
    """Turns a row into a record. Subclasses are frozen dataclasses: their fields are part of the cache key."""

    short_name: ClassVar[str] = ""
    """What a config and the command line call it; empty for one that only other formats use."""

    as_chat: bool = False
    """Whether plain text becomes a user's message and an assistant's for the chat template; rows of messages are that anyway."""

    def read(self, row: Row, row_number: int) -> Record:
        """What `parse` makes of a row, as a conversation if `as_chat` says so.

        Raises:
            BadRowError: if the row has not what the format needs.
            RowLeftOut: if the format is asked to leave such rows out.
        """
        record = self.parse(row, row_number)
        return in_chat(record) if self.as_chat else record

    @abstractmethod
    def parse(self, row: Row, row_number: int) -> Record:
        """The record of a row, for `read`; plain text may stay plain text.

        Raises:
            BadRowError: if the row has not what the format needs.
            RowLeftOut: if the format is asked to leave such rows out.
        """

    def for_pairs(self) -> RowFormat:
        """The format for data of pairs: a row with one completion is a bad row.

        Raises:
            ValueError: if no row of the format is a pair.
        """
        return PairsOnly(self)

    def for_unpaired(self) -> RowFormat:
        """The format for single labelled completions, of rows that have one or are pairs to be taken apart; pairs by default."""
        return self.for_pairs()

    def for_supervised(self) -> RowFormat:
        """The format for supervised data: of a pair, the chosen completion.

        Raises:
            ValueError: if rows of the format have to be chosen from first.
        """
        return ChosenOnly(self)


@dataclass(frozen=True)
class PairColumns(RowFormat):
    """A pair in columns of text or of chat messages.

    With `prompt: null` the chosen and rejected cells are whole conversations (lists of messages): all but the last message
    are the prompt, and must be the same in both.
    """

    short_name = "columns"

    prompt: tuple[str, ...] | str | None = "prompt"
    """Column of the prompt, or null. Several are joined by `separator`; of those, empty ones are passed over."""
    chosen: str = "chosen"
    """Column of the preferred completion."""
    rejected: str = "rejected"
    """Column of the dispreferred completion."""
    chosen_score: str | None = None
    """Column of the judge's score of the preferred completion, if there is one."""
    rejected_score: str | None = None
    """Column of the judge's score of the dispreferred completion, if there is one."""
    tools: str | None = "tools"
    """Column of the tools that the chat template is told of, where a row has them: a list, or JSON of one. null reads none."""
    has_control_tokens: bool = False
    """Whether special tokens that the text spells are special; else they are words, unless a text prompt begins with one."""
    separator: str = "\n"
    """Text between several columns of the prompt."""

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        prompt, chosen = prompt_and_completion(row, self.prompt, self.chosen, self.separator)
        other_prompt, rejected = prompt_and_completion(row, self.prompt, self.rejected, self.separator)
        scores = (number_cell(row, self.chosen_score), number_cell(row, self.rejected_score))
        record = pair_record(prompt, chosen, other_prompt, rejected, row_number, scores)
        return replace(record, tools=parse_tools(row, self.tools), has_control_tokens=self.has_control_tokens)


@dataclass(frozen=True)
class PromptCompletionColumns(RowFormat):
    """A supervised example in columns of text or of chat messages.

    With `prompt: null` the completion cell is a whole conversation (a list of messages) whose last message is the completion.
    """

    short_name = "completions"

    prompt: tuple[str, ...] | str | None = "prompt"
    """Column of the prompt, or null. Several are joined by `separator`; of those, empty ones are passed over."""
    completion: str = "completion"
    """Column of the completion."""
    tools: str | None = "tools"
    """Column of the tools that the chat template is told of, where a row has them: a list, or JSON of one. null reads none."""
    has_control_tokens: bool = False
    """Whether special tokens that the text spells are special; else they are words, unless a text prompt begins with one."""
    separator: str = "\n"
    """Text between several columns of the prompt."""

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        prompt, completion = prompt_and_completion(row, self.prompt, self.completion, self.separator)
        completions = (CompletionRecord(completion, Role.CHOSEN, "chosen"),)
        return Record(prompt, completions, row_number, parse_tools(row, self.tools), self.has_control_tokens)


def prompt_and_completion(
    row: Row, prompt: tuple[str, ...] | str | None, completion: str, separator: str = "\n"
) -> tuple[Text, Text]:
    """The prompt, of one column or several, and one completion of a row.

    Raises:
        BadRowError: if a cell is missing or of another type, or one is text and the other messages.
    """
    last = text_cell(row, completion)
    if prompt is None:
        return conversation(last, completion)
    first = text_cell(row, prompt) if isinstance(prompt, str) else joined_cells(row, prompt, separator)
    if isinstance(first, str) and isinstance(last, str):
        return first, last
    if isinstance(first, str) or isinstance(last, str):
        first, last = as_messages(first, "user"), as_messages(last, "assistant")
    require_reply(last, completion)
    return first, last


def pair_record(
    prompt: Text,
    chosen: Text,
    other_prompt: Text,
    rejected: Text,
    row_number: int,
    scores: tuple[float | None, float | None] = (None, None),
) -> Record:
    """The record of a pair.

    Raises:
        BadRowError: if the two sides answer different prompts.
    """
    if isinstance(prompt, str) != isinstance(other_prompt, str):
        # One reply is text and the other one messages: both are messages, then.
        prompt, other_prompt = (as_messages(text, "user") for text in (prompt, other_prompt))
        chosen, rejected = (as_messages(text, "assistant") for text in (chosen, rejected))
    if prompt != other_prompt:
        raise BadRowError(Fault.DIVERGING_PROMPTS, "the turns before the last assistant turn differ")
    return Record(
        prompt,
        (
            CompletionRecord(chosen, Role.CHOSEN, "chosen", scores[0]),
            CompletionRecord(rejected, Role.REJECTED, "rejected", scores[1]),
        ),
        row_number,
    )


@dataclass(frozen=True)
class ChosenOnly(RowFormat):
    """What another format reads, without the completions that are not chosen: supervised data from pairs."""

    format: RowFormat

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        record = self.format.read(row, row_number)
        chosen = tuple(c for c in record.completions if c.role is Role.CHOSEN)
        if not chosen:
            raise RowLeftOut("the answer is labelled bad")
        return replace(record, completions=chosen)


@dataclass(frozen=True)
class PairsOnly(RowFormat):
    """What another format reads, if it is a pair."""

    format: RowFormat

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        record = self.format.read(row, row_number)
        if missing := {Role.CHOSEN, Role.REJECTED} - {completion.role for completion in record.completions}:
            sides = " and ".join(sorted(role.name.lower() for role in missing))
            raise BadRowError(
                Fault.NOT_A_PAIR, f"no {sides} completion. Rows of one answer are for SFTDataModule (experiment *_sft)"
            )
        return record
