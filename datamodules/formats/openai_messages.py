"""Rows with OpenAI's messages: `messages` of `role` and `content`."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from datamodules.contracts.records import Message
from datamodules.formats.conversations import ConversationFormat
from datamodules.formats.messages import parse_message


@dataclass(frozen=True, kw_only=True)
class MessageRows(ConversationFormat):
    """`{"messages": [{"role": "user", "content": "..."}, ...]}`; content is text, or parts of text, which are joined."""

    short_name = "messages"

    messages: str = "messages"
    """Column of the conversation."""

    @property
    @override
    def column(self) -> str:
        return self.messages

    @override
    def turn(self, item: object, column: str) -> Message:
        return parse_message(item, column)
