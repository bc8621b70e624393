"""Reads messages and tools from a cell, in the form that a chat template takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from reprlib import Repr

from datamodules.contracts.records import BadRowError, Fault, Message

ASSISTANT = "assistant"
"""The role whose words are trained on."""

LINKS = ("tool_call_id", "name")
"""Keys of a message that say what it belongs to. A chat template gets them; many print none of them."""
SAID = ("reasoning_content", "reasoning", "thinking", "tool_plan", "tool_calls", "function_call", *LINKS)
"""Keys of a message, besides role and content, that make it another message."""

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
"""Types of a part that is text."""


def parse_message(item: object, column: str) -> Message:
    """A message: role, content as text, and other keys; one that is null, as Parquet writes the keys of other rows, is none.

    Raises:
        BadRowError: if it has no role, says nothing, or holds something else than text.
    """
    if not isinstance(item, Mapping):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds {shorten(item)}; expected messages {{role: text, content: text}}")
    fields = {str(key): value for key, value in item.items() if value is not None}
    role, content = fields.pop("role", None), _text_of(fields.pop("content", None), column)
    said = {key: fields.pop(key) for key in SAID if fields.get(key) not in (None, [], {}, "")}
    if not isinstance(role, str) or (content is None and not said):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds {shorten(item)}; expected messages {{role: text, content: text}}")
    return Message(role, content or "", _as_json(said, column), _as_json(fields, column))


def parse_tools(row: Mapping[str, object], column: str | None) -> str:
    """The tools of a row, as a JSON list; empty where it has none, or no column is asked for.

    Raises:
        BadRowError: if they are no list of objects (or JSON of one).
    """
    cell = row.get(column) if column is not None else None
    tools = (
        [_parsed(tool) for tool in found] if isinstance(found := _parsed(cell), Sequence) and not isinstance(found, str) else found
    )
    if tools is None or tools in ("", []):
        return ""
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadRowError(
            Fault.WRONG_TYPE, f"{column!r} is {shorten(cell)}; expected a list of tools, or JSON of one (`tools: null` reads none)"
        )
    return _as_json(tools, str(column))


def require_reply(messages: Sequence[Message], column: str) -> None:
    """Refuse a reply that is not the assistant's one message.

    Raises:
        BadRowError: if it is not.
    """
    if len(messages) != 1:
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds {len(messages)} messages; expected the one reply")
    if messages[0].role != ASSISTANT:
        raise BadRowError(Fault.UNKNOWN_ROLE, f"{column!r}: expected role {ASSISTANT}, got {messages[0].role!r}")


def whole_text(text: str, column: str) -> str:
    """The text, if it has a UTF-8 form: JSON can spell half a surrogate pair, which no tokenizer takes.

    Raises:
        BadRowError: if it has none.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(Fault.NOT_UNICODE, f"{column!r} at character {error.start}: {text[error.start]!r}") from error
    return text


def shorten(value: object) -> str:
    """Type and beginning of a value, for an error."""
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


def _text_of(content: object, column: str) -> str | None:
    """The content of a message; parts of text are joined, as templates that take parts join them."""
    if content is None or isinstance(content, str):
        return content if content is None else whole_text(content, column)
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        parts = [part.get("text", part.get("value")) if part.get("type", "text") in _TEXT_PARTS else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return whole_text("".join(map(str, parts)), column)
        kinds = sorted({str(part.get("type")) for part in content} - _TEXT_PARTS)
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds a message with parts of type {kinds}; expected parts of text alone")
    raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds a message whose content is {shorten(content)}; expected text")


def _present(value: object) -> object:
    """The value without keys that are null, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _present(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_present(item) for item in value]
    return value


def _parsed(cell: object) -> object:
    if not isinstance(cell, str) or not cell.strip():
        return cell
    try:
        parsed: object = json.loads(cell)
    except ValueError:
        return cell
    return parsed


def _as_json(value: object, column: str) -> str:
    """The value without keys that are null, as JSON; empty for nothing."""
    if not value:
        return ""
    try:
        return whole_text(json.dumps(_present(value), ensure_ascii=False, default=str), column)
    except (RecursionError, ValueError) as error:
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds {shorten(value)}, which has no JSON form: {error}") from error
