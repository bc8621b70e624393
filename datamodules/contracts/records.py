"""Records: the content of a row (a prompt with completions, as text or chat messages) and the errors a row can have."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum

from datamodules.contracts.batches import Role


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    """"system", "user", "assistant", "tool", or whatever else the tokenizer's chat template names."""
    content: str
    """Text; empty where there are tool calls alone."""
    said: str = ""
    """What else is said, as a JSON object: reasoning, tool calls, the name of the speaker. Empty for nothing."""
    other: str = field(default="", compare=False, repr=False)
    """Any other keys of the message, as a JSON object. They are passed to the template, and make no message another one."""

    def fields(self) -> dict[str, object]:
        """What a chat template gets."""
        own: dict[str, object] = {"role": self.role, "content": self.content}
        for further in filter(None, (self.said, self.other)):
            own |= json.loads(further)
        return own


Text = str | tuple[Message, ...]
"""Plain text, or the messages of a chat."""


@dataclass(frozen=True, slots=True)
class CompletionRecord:
    """One completion before tokenisation."""

    text: Text
    """Text that follows the prompt, or the message(s) that follow the prompt's."""
    role: Role
    kind: str
    score: float | None = None
    """Judge score, if the row has one."""
    is_drawn: bool = False
    """Whether a model drew it: special tokens that plain text spells then are those that it drew, as its pool wrote them down."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row that its format could read."""

    prompt: Text
    completions: tuple[CompletionRecord, ...]
    row_number: int
    """Row of the source (0-based, counted on over the files of a folder)."""
    tools: str = ""
    """JSON list of the tools that a chat template is told of; empty for none."""
    has_control_tokens: bool = False
    """Whether special tokens that the text spells are meant as such, and not as the words they are."""


class Fault(StrEnum):
    """Kinds of bad rows."""

    MALFORMED = "malformed JSON"
    MALFORMED_CELLS = "malformed row of a table"
    TOO_LONG = "row too long to read"
    BROKEN_FILE = "file that cannot be read to its end"
    FORMAT_FAILS = "row that the format fails on"
    MISSING_FIELD = "missing field"
    WRONG_TYPE = "wrong-typed field"
    NOT_UNICODE = "text with half a surrogate pair"
    NOT_A_DIALOGUE = "not a dialogue that ends with an assistant turn"
    DIVERGING_PROMPTS = "chosen and rejected answer different prompts"
    EMPTY_PROMPT = "empty prompt"
    EMPTY_COMPLETION = "empty completion"
    SAME_COMPLETIONS = "chosen equals rejected"
    NOT_A_PAIR = "row that is no pair"
    NO_DIFFERENCE = "no two responses of different scores"
    DUPLICATE = "duplicate row"
    NO_ROOM = "prompt leaves no room for a completion within max_length"
    UNKNOWN_ROLE = "message with another role than expected"
    TEMPLATE_REFUSES = "chat template refuses the messages"
    TEMPLATE_DROPS = "chat template leaves out what the row says"
    UNSPEAKABLE = "text that spells a special token, which the tokenizer cannot write as words"
    NOT_A_PREFIX = "chat template: the prompt is not a token prefix of the whole"
    SAME_WHEN_CUT = "chosen equals rejected once cut to max_length"


class BadRowError(Exception):
    """A row that cannot be used.

    Args:
        fault: its kind.
        detail: what was found, for the report.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


class RowLeftOut(Exception):
    """A good row that was asked to be left out.

    Args:
        reason: what such rows have in common, for the report.
    """


def as_messages(text: Text, role: str) -> tuple[Message, ...]:
    """Plain text as one message of a role; messages as they are."""
    return (Message(role, text),) if isinstance(text, str) else text


def reply_to(prompt: Text, text: str) -> Text:
    """A response in the form of its prompt: text, or an assistant's message."""
    return text if isinstance(prompt, str) else as_messages(text, "assistant")


def in_chat(record: Record) -> Record:
    """The record as a conversation: plain text is a user's message and the assistant's replies."""
    replies = tuple(replace(side, text=as_messages(side.text, "assistant")) for side in record.completions)
    return replace(record, prompt=as_messages(record.prompt, "user"), completions=replies)


def is_blank(text: Text) -> bool:
    """Whether there is nothing but white space."""
    return not text.strip() if isinstance(text, str) else not any(message.content.strip() or message.said for message in text)
