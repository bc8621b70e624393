"""Rows of whole conversations: the last turn is the answer, or two answers stand beside the conversation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Fault, Message, Record
from datamodules.formats.cells import conversation, text_cell
from datamodules.formats.columns import Row, RowFormat, pair_record
from datamodules.formats.messages import ASSISTANT, parse_tools, require_reply, shorten

Turns = tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class ConversationFormat(RowFormat):
    """A conversation in a column; a subclass says what a turn is (`turn`).

    A row with `chosen` and `rejected` is a pair: each is one answer (a turn, a list of one, or text) to the conversation, or a
    whole conversation of its own. Other rows are supervised: the last turn, the assistant's, is the answer, and earlier
    ones belong to the prompt.
    """

    system: str | None = "system"
    """Column of a system prompt, where a row has one and its conversation does not begin with one. null reads none."""
    chosen: str = "chosen"
    """Column of the preferred answer."""
    rejected: str = "rejected"
    """Column of the dispreferred answer."""
    tools: str | None = "tools"
    """Column of the tools that the chat template is told of, where a row has them: a list, or JSON of one. null reads none."""
    has_control_tokens: bool = False
    """Whether special tokens that the text spells are special; else they are words."""

    @property
    @abstractmethod
    def column(self) -> str:
        """The column of the conversation."""

    @abstractmethod
    def turn(self, item: object, column: str) -> Message:
        """One turn.

        Raises:
            BadRowError: if it is none.
        """

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        is_pair = row.get(self.chosen) is not None or row.get(self.rejected) is not None
        record = self._pair(row, row_number) if is_pair else self._answered(row, row_number)
        return replace(record, tools=parse_tools(row, self.tools), has_control_tokens=self.has_control_tokens)

    def _answered(self, row: Row, row_number: int) -> Record:
        prompt, reply = _cut(self._turns(row, self.column), self.column)
        return Record(self._with_system(row, prompt), (CompletionRecord(reply, Role.CHOSEN, "chosen"),), row_number)

    def _pair(self, row: Row, row_number: int) -> Record:
        sides = [self._side(row, column) for column in (self.chosen, self.rejected)]
        (prompt, chosen), (other_prompt, rejected) = ((self._with_system(row, asked), reply) for asked, reply in sides)
        return pair_record(prompt, chosen, other_prompt, rejected, row_number)

    def _side(self, row: Row, column: str) -> tuple[Turns, Turns]:
        """The prompt and the answer of one side."""
        said = self._turns(row, column)
        if len(said) > 1 and said[0].role in ("system", "user", "developer"):
            return _cut(said, column)
        require_reply(said, column)
        prompt = self._turns(row, self.column)
        if prompt[-1].role == ASSISTANT:
            raise BadRowError(
                Fault.NOT_A_DIALOGUE,
                f"{self.column!r} ends with an assistant's turn, and {column!r} holds another one: which is it?",
            )
        return prompt, said

    def _turns(self, row: Row, column: str) -> Turns:
        cell = row.get(column)
        if isinstance(cell, str):
            if column not in (self.chosen, self.rejected):
                raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {shorten(cell)}; expected a list of turns")
            return (Message(ASSISTANT, str(text_cell(row, column))),)
        if isinstance(cell, Mapping):
            return (self.turn(cell, column),)
        if not isinstance(cell, Sequence) or not cell:
            text_cell(row, column)  # says what is missing or wrong
        assert isinstance(cell, Sequence), "text_cell refuses everything else"
        return tuple(self.turn(item, column) for item in cell)

    def _with_system(self, row: Row, turns: Turns) -> Turns:
        cell = row.get(self.system) if self.system is not None else None
        if cell is None or cell == "" or turns[0].role == "system":
            return turns
        if not isinstance(cell, str):
            raise BadRowError(Fault.WRONG_TYPE, f"{self.system!r} is {shorten(cell)}; expected text (`system: null` reads none)")
        return (Message("system", cell), *turns)


def _cut(turns: Turns, column: str) -> tuple[Turns, Turns]:
    conversation(turns, column)  # refuses what does not end with an answer
    return turns[:-1], turns[-1:]
