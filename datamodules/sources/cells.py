"""Reading the cells of a row, with errors that name the column."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from reprlib import Repr

from datamodules.sources.records import BadRowError, Fault, Message, Text


def text_cell(row: Mapping[str, object], column: str) -> Text:
    """Text, or the messages of a chat.

    Raises:
        BadRowError: if the column is missing (or null), or holds something else or broken text.
    """
    cell = _cell(row, column)
    if isinstance(cell, str):
        return _whole(cell, column)
    if isinstance(cell, Sequence) and cell:
        return tuple(_message(item, column) for item in cell)
    raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {_shorten(cell)}; expected text or a list of messages")


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
    raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {_shorten(cell)}; expected a finite number")


def conversation(cell: Text, column: str) -> tuple[Text, Text]:
    """A whole conversation cut before its last message.

    Raises:
        BadRowError: if it is text, or too short, or does not end with the assistant.
    """
    if isinstance(cell, str):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is text; without a prompt column expected a list of messages")
    if len(cell) < 2 or cell[-1].role != "assistant":
        raise BadRowError(Fault.NOT_A_DIALOGUE, f"{column!r} has the roles {[message.role for message in cell]}")
    return cell[:-1], cell[-1:]


def _cell(row: Mapping[str, object], column: str) -> object:
    if row.get(column) is None:
        raise BadRowError(Fault.MISSING_FIELD, f"no {column!r} among {sorted(row)}")
    return row[column]


def _message(item: object, column: str) -> Message:
    if isinstance(item, Mapping):
        role, content = item.get("role"), item.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return Message(role, _whole(content, column))
    raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds {_shorten(item)}; expected messages {{role: text, content: text}}")


def _whole(text: str, column: str) -> str:
    """The text, if it has a UTF-8 form: JSON can spell half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(Fault.NOT_UNICODE, f"{column!r} at character {error.start}: {text[error.start]!r}") from error
    return text


def _shorten(value: object) -> str:
    text = f"{type(value).__name__} {_brief(value)}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _brief(value: object) -> str:
    # `repr` of ten thousand brackets, or of as many digits, raises an error of its own.
    brief = Repr()
    brief.maxstring = brief.maxother = 80
    try:
        return brief.repr(value)
    except ValueError:
        return "of too many digits to show"
