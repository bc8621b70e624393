"""Reads the cells of a row, with errors that name the column."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from datamodules.contracts.records import BadRowError, Fault, Text
from datamodules.formats.messages import ASSISTANT, parse_message, shorten, whole_text


def text_cell(row: Mapping[str, object], column: str) -> Text:
    """Text, or the messages of a chat.

    Raises:
        BadRowError: if the column is missing (or null), or holds something else or broken text.
    """
    cell = _cell(row, column)
    if isinstance(cell, str):
        return whole_text(cell, column)
    if isinstance(cell, Sequence) and cell:
        return tuple(parse_message(item, column) for item in cell)
    raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {shorten(cell)}; expected text or a list of messages")


def joined_cells(row: Mapping[str, object], columns: Sequence[str], separator: str) -> str:
    """The text of several columns, those that are missing, null or blank passed over.

    Raises:
        BadRowError: if none of them has text, or one holds something else.
    """
    cells = [(column, row.get(column)) for column in columns]
    for column, cell in cells:
        if cell is not None and not isinstance(cell, str):
            raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {shorten(cell)}; expected text, which is joined with other columns")
    texts = [whole_text(cell, column) for column, cell in cells if isinstance(cell, str) and cell.strip()]
    if not texts:
        raise BadRowError(Fault.MISSING_FIELD, f"no text in {', '.join(map(repr, columns))} among {sorted(row)}")
    return separator.join(texts)


def number_cell(row: Mapping[str, object], column: str | None) -> float | None:
    """A finite number; None where no column is asked for.

    Raises:
        BadRowError: if the column is missing (or null), or holds something else: NaN, an infinity, or a whole number beyond floats.
    """
    if column is None:
        return None
    cell = _cell(row, column)
    if isinstance(cell, int | float) and not isinstance(cell, bool) and abs(cell) <= sys.float_info.max:
        return float(cell)
    raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {shorten(cell)}; expected a finite number")


def conversation(cell: Text, column: str) -> tuple[Text, Text]:
    """A whole conversation cut before its last message.

    Raises:
        BadRowError: if it is text, or too short, or does not end with the assistant.
    """
    if isinstance(cell, str):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is text; without a prompt column expected a list of messages")
    if len(cell) < 2 or cell[-1].role != ASSISTANT:
        raise BadRowError(Fault.NOT_A_DIALOGUE, f"{column!r} has the roles {[message.role for message in cell]}")
    return cell[:-1], cell[-1:]


def _cell(row: Mapping[str, object], column: str) -> object:
    if row.get(column) is None:
        raise BadRowError(Fault.MISSING_FIELD, f"no {column!r} among {sorted(row)}")
    return row[column]
