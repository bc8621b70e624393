"""Alpaca's rows (Taori et al. 2023): `instruction`, `input`, `output`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Fault, Message, Record, Text, reply_to
from datamodules.formats.cells import joined_cells, text_cell
from datamodules.formats.columns import Row, RowFormat, pair_record
from datamodules.formats.messages import ASSISTANT, shorten


@dataclass(frozen=True, kw_only=True)
class AlpacaRows(RowFormat):
    """An instruction, its input, and an answer, or a preferred and a dispreferred one (`chosen`, `rejected`).

    As messages: the system prompt, the turns of `history` and, in one message with a line break between, instruction and
    input. As text: the same between Alpaca's headings.
    """

    short_name = "alpaca"

    instruction: str = "instruction"
    """Column of the instruction."""
    input: str | None = "input"
    """Column of what the instruction is about, where a row has it. null reads none."""
    output: str = "output"
    """Column of the answer."""
    chosen: str = "chosen"
    """Column of the preferred answer, where rows are pairs."""
    rejected: str = "rejected"
    """Column of the dispreferred answer, where rows are pairs."""
    system: str | None = "system"
    """Column of a system prompt, where a row has one. null reads none."""
    history: str | None = "history"
    """Column of earlier turns, a list of [instruction, answer], where a row has it. null reads none."""
    as_chat: bool = True
    """Whether rows become messages for the tokenizer's chat template; else text under `### Instruction:` and `### Response:`."""

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        prompt = self._prompt(row)
        if row.get(self.chosen) is not None or row.get(self.rejected) is not None:
            chosen, rejected = (reply_to(prompt, self._text(row, column)) for column in (self.chosen, self.rejected))
            return pair_record(prompt, chosen, prompt, rejected, row_number)
        reply = reply_to(prompt, self._text(row, self.output))
        return Record(prompt, (CompletionRecord(reply, Role.CHOSEN, "chosen"),), row_number)

    def _prompt(self, row: Row) -> Text:
        self._text(row, self.instruction)  # without one, an input alone would pass for it
        asked = joined_cells(row, [column for column in (self.instruction, self.input) if column is not None], "\n")
        system = self._optional(row, self.system)
        if not self.as_chat:
            return self._as_text(row, system)
        turns = [Message(role, text) for pair in self._history(row) for role, text in zip(("user", ASSISTANT), pair, strict=True)]
        first = [Message("system", system)] if system else []
        return (*first, *turns, Message("user", asked))

    def _as_text(self, row: Row, system: str) -> str:
        given = self._optional(row, self.input)
        parts = [system] if system else []
        for instruction, answer in self._history(row):
            parts += [f"### Instruction:\n{instruction}", f"### Response:\n{answer}"]
        parts += [f"### Instruction:\n{self._text(row, self.instruction)}", *([f"### Input:\n{given}"] if given else [])]
        return "\n\n".join([*parts, "### Response:\n"])

    def _history(self, row: Row) -> list[tuple[str, str]]:
        cell = row.get(self.history) if self.history is not None else None
        if not cell:
            return []
        if isinstance(cell, Sequence) and not isinstance(cell, str):
            turns = [tuple(turn) for turn in cell if isinstance(turn, Sequence) and not isinstance(turn, str)]
            pairs = [(turn[0], turn[1]) for turn in turns if len(turn) == 2 and all(isinstance(text, str) for text in turn)]
            if len(pairs) == len(cell):
                return pairs
        raise BadRowError(Fault.WRONG_TYPE, f"{self.history!r} is {shorten(cell)}; expected a list of [instruction, answer]")

    def _optional(self, row: Row, column: str | None) -> str:
        return "" if column is None or row.get(column) in (None, "") else self._text(row, column)

    def _text(self, row: Row, column: str) -> str:
        cell = text_cell(row, column)
        if not isinstance(cell, str):
            raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds messages; expected text")
        return cell
