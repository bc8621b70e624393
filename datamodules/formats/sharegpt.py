"""ShareGPT's rows: `conversations` of `from` and `value`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from datamodules.contracts.records import BadRowError, Fault, Message
from datamodules.formats.conversations import ConversationFormat
from datamodules.formats.messages import ASSISTANT, parse_message, shorten

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "assistant": ASSISTANT,
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
_CALL = "function_call"


@dataclass(frozen=True, kw_only=True)
class ShareGPTRows(ConversationFormat):
    """`{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}`.

    A `function_call` turn, whose value is JSON of one call or of a list of calls, is the assistant's with these tool calls;
    `observation`, `tool` and `function_response` are the tool's.
    """

    short_name = "sharegpt"

    conversations: str = "conversations"
    """Column of the conversation."""
    speaker: str = "from"
    """Key of a turn that says who speaks."""
    text: str = "value"
    """Key of a turn that says what."""

    @property
    @override
    def column(self) -> str:
        return self.conversations

    @override
    def turn(self, item: object, column: str) -> Message:
        if not isinstance(item, Mapping) or not isinstance(item.get(self.speaker), str):
            raise BadRowError(
                Fault.WRONG_TYPE, f"{column!r} holds {shorten(item)}; expected turns {{{self.speaker}: who, {self.text}: text}}"
            )
        further = {str(key): value for key, value in item.items() if key not in (self.speaker, self.text)}
        speaker, said = item[self.speaker], item.get(self.text)
        if speaker == _CALL:
            return parse_message({**further, "role": ASSISTANT, "content": "", "tool_calls": _calls(said, column)}, column)
        if speaker not in _ROLES:
            raise BadRowError(
                Fault.UNKNOWN_ROLE, f"{column!r} has a turn of {speaker!r}; expected one of {', '.join(_ROLES)}, {_CALL}"
            )
        return parse_message({**further, "role": _ROLES[speaker], "content": said}, column)


def _calls(said: object, column: str) -> list[dict[str, object]]:
    """The tool calls that a text spells."""
    try:
        parsed = json.loads(said) if isinstance(said, str) else said
    except (ValueError, RecursionError) as error:
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} has a {_CALL} that is no JSON ({error}): {shorten(said)}") from error
    found = parsed if isinstance(parsed, list) else [parsed]
    calls = [call for call in found if isinstance(call, Mapping) and "name" in call]
    if not found or len(calls) < len(found):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} has the {_CALL} {shorten(said)}; expected {{name: ..., arguments: ...}}")
    return [{"type": "function", "function": dict(call)} for call in calls]
