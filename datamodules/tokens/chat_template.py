"""Applies a tokenizer's chat template to messages, and checks that the text still holds what the messages say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from datamodules.contracts.records import BadRowError, Fault, Message
from datamodules.formats.messages import LINKS, SAID
from datamodules.tokens.special_tokens import SpecialTokens, unmarked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "tool")
"""Roles that are asked of no template by name."""
_FRAME = frozenset({"function", "name", "arguments"})
"""Keys of a tool call whose values are what it says."""
_NOT_PRINTED = frozenset({"id", "type"})
"""Keys of a tool call that say nothing."""


class ChatTemplate:
    """Lays messages out as text, or says why they are a bad row.

    Args:
        tokenizer: the one whose template it is.
        special: its special tokens; those that a message spells come out marked.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: SpecialTokens) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._taken_for_assistant: dict[tuple[str, ...], str | None] = {}

    def render(self, messages: Sequence[Message], tools: str = "", *, opens_reply: bool, control_tokens: bool = False) -> str:
        """The text of the messages.

        Args:
            messages: at least one.
            tools: JSON list, or empty.
            opens_reply: whether the reply is yet to come: the text then ends where it begins.
            control_tokens: whether special tokens that the messages spell are meant as such.

        Raises:
            BadRowError: if the template refuses them.
            ValueError: if there is no template.
        """
        fields, told = [message.fields() for message in messages], json.loads(tools) if tools else None
        if not control_tokens:
            fields, told = self._special.mark_all(fields), self._special.mark_all(told)
        return self._apply(fields, told, opens_reply)

    def require_roles(self, messages: Sequence[Message], tools: str = "") -> None:
        """Refuse roles that the template does not know, or takes for the assistant's.

        Raises:
            BadRowError: if there is one.
            ValueError: if there is no template.
        """
        for message in messages:
            if message.role not in ROLES and not re.search(rf"['\"]{re.escape(message.role)}['\"]", self._source):
                raise BadRowError(Fault.UNKNOWN_ROLE, f"unknown role {message.role!r}; expected {', '.join(ROLES)}")
        roles = tuple(message.role for message in messages)
        if roles not in self._taken_for_assistant:
            self._taken_for_assistant[roles] = self._find_taken(messages, tools)
        if (role := self._taken_for_assistant[roles]) is not None:
            raise BadRowError(Fault.UNKNOWN_ROLE, f"the chat template lays the role {role!r} out as an assistant's turn")

    def require_whole(self, rendered: str, messages: Sequence[Message], tools: str = "") -> None:
        """Refuse messages that say more than the text does; white space does not count.

        Raises:
            BadRowError: if something is left out; it names it.
        """
        text = _squeezed(unmarked(rendered))
        for lost in (*_lost_tools(text, tools), *_lost_speech(text, messages), *_lost_contents(text, messages)):
            raise BadRowError(Fault.TEMPLATE_DROPS, lost)

    def unread(self, messages: Iterable[Message]) -> frozenset[str]:
        """Keys of the messages that the template does not name; those whose text it has to print are not among them."""
        parts = [json.loads(part) for message in messages for part in (message.other, message.said) if part]
        keys = {key for part in parts for key in part if key in LINKS or key not in SAID}
        return frozenset(key for key in keys if not re.search(rf"\b{re.escape(key)}\b", self._source))

    @cached_property
    def _source(self) -> str:
        template = self._tokenizer.chat_template
        return "\n".join(template.values()) if isinstance(template, dict) else str(template)

    def _require_template(self) -> None:
        if self._tokenizer.chat_template is None:
            raise ValueError(
                "expected a tokenizer with a chat template for chat messages, got one without. "
                "Use the tokenizer of an instruct model, or read plain text: --data.format.as_chat false (for a task's prompts "
                "--data.task.is_chat false)."
            )

    def _apply(self, messages: list[dict[str, object]], tools: object, opens_reply: bool) -> str:
        from jinja2 import TemplateError

        self._require_template()
        try:
            text = self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=opens_reply)
        # A template is a program: it fails as programs do, on what it did not expect.
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise BadRowError(Fault.TEMPLATE_REFUSES, str(error)) from error
        return str(text)

    def _find_taken(self, messages: Sequence[Message], tools: str) -> str | None:
        """A role that makes no difference to the text when it is the assistant's."""
        told = json.loads(tools) if tools else None
        fields = [message.fields() for message in messages]
        rendered = self._apply(fields, told, False)
        # A template that does not tell the user from the assistant writes no roles at all.
        for role in ("user", *sorted({message.role for message in messages} - {"user", "assistant"})):
            swapped = [one | {"role": "assistant"} if one["role"] == role else one for one in fields]
            if swapped != fields and self._renders_as(swapped, told, rendered):
                return None if role == "user" else role
        return None

    def _renders_as(self, messages: list[dict[str, object]], tools: object, rendered: str) -> bool:
        try:
            return self._apply(messages, tools, False) == rendered
        except BadRowError:
            return False


def _lost_contents(text: str, messages: Sequence[Message]) -> Iterator[str]:
    """Contents in their order; a system message may stand anywhere (templates put it into a turn of the user)."""
    position = 0
    for number, message in enumerate(messages):
        is_system = message.role == "system"
        end = _end_of(message.content, text, 0 if is_system else position)
        if end is None:
            yield f"the content of message {number} ({message.role}), {message.content.strip()[:80]!r}"
        elif not is_system:
            position = end


def _lost_speech(text: str, messages: Sequence[Message]) -> Iterator[str]:
    for number, message in enumerate(messages):
        for key, value in json.loads(message.said or "{}").items():
            lost = [leaf for leaf in _leaves(value) if key not in LINKS and _end_of(leaf, text) is None]
            yield from (f"{key!r} of message {number} ({message.role}): {leaf[:80]!r}" for leaf in lost)


def _lost_tools(text: str, tools: str) -> Iterator[str]:
    for tool in json.loads(tools or "[]"):
        told = tool.get("function", tool)
        properties = (told.get("parameters") or {}).get("properties") or {}
        for leaf in (told.get("name"), told.get("description"), *properties):
            if leaf and _end_of(str(leaf), text) is None:
                yield f"'tools': {str(leaf)[:80]!r}"


def _leaves(value: object) -> Iterator[str]:
    """Every text, number and argument's name in a JSON value; a text that is JSON itself is looked into."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from () if key in _FRAME or key in _NOT_PRINTED else (str(key),)
            yield from () if key in _NOT_PRINTED else _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        inner = _as_json(value)
        yield from (value,) if inner is None else _leaves(inner)
    elif value is not None:
        yield json.dumps(value)


def _as_json(text: str) -> object:
    """The object or list that a text is, if it is one."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        loaded: object = json.loads(text)
        return loaded
    except ValueError:
        return None


def _end_of(said: str, text: str, start: int = 0) -> int | None:
    """Where something that is said ends in a squeezed text, from `start` on; None if it is not there."""
    for spelling in _spellings(said.strip()):
        squeezed = _squeezed(spelling)
        if (found := text.find(squeezed, start)) >= 0:
            return found + len(squeezed)
    return None


def _spellings(text: str) -> Iterator[str]:
    """How a template may write a text: as it is, as JSON, as JSON in JSON, as Python writes true and false."""
    yield text
    as_json = json.dumps(text, ensure_ascii=False)[1:-1]
    yield from (as_json, json.dumps(text)[1:-1], json.dumps(as_json, ensure_ascii=False)[1:-1])
    if text in ("true", "false"):
        yield text.title()


def _squeezed(text: str) -> str:
    return "".join(text.split())
