"""Rows with a whole dialogue in one text, as in HH-RLHF (Bai et al. 2022, arXiv 2204.05862)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from typing_extensions import override

from datamodules.contracts.records import BadRowError, Fault, Message, Record, Text
from datamodules.formats.cells import text_cell
from datamodules.formats.columns import Row, RowFormat, pair_record


@dataclass(frozen=True, kw_only=True)
class HHDialogues(RowFormat):
    r"""Chosen and rejected are whole dialogues that share everything up to the last assistant turn.

    The prompt is all before the last reply; a pair whose dialogues part earlier is a bad row.
    """

    short_name = "hh"

    chosen: str = "chosen"
    """Column of the dialogue with the preferred reply."""
    rejected: str = "rejected"
    """Column of the dialogue with the dispreferred reply."""
    human: str = "\n\nHuman:"
    """What opens a human turn."""
    assistant: str = "\n\nAssistant:"
    """What opens an assistant turn."""
    as_chat: bool = True
    """Whether turns become messages for the tokenizer's chat template; else the text stays as it is."""

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        prompt, chosen = self._cut(row, self.chosen)
        other_prompt, rejected = self._cut(row, self.rejected)
        return pair_record(prompt, chosen, other_prompt, rejected, row_number)

    def _cut(self, row: Row, column: str) -> tuple[Text, Text]:
        dialogue = text_cell(row, column)
        if not isinstance(dialogue, str):
            raise BadRowError(Fault.WRONG_TYPE, f"{column!r} holds messages; expected a dialogue as text")
        head, mark, reply = dialogue.rpartition(self.assistant)
        if not mark or self.human in reply or not head.lstrip().startswith(self.human.lstrip()):
            raise BadRowError(Fault.NOT_A_DIALOGUE, f"{column!r} ends with {dialogue[-60:]!r}")
        if not self.as_chat:
            return head + mark, reply
        return self._messages(head), (Message("assistant", reply.strip()),)

    def _messages(self, head: str) -> tuple[Message, ...]:
        parts = re.split(f"({re.escape(self.human)}|{re.escape(self.assistant)})", head)
        turns = zip(parts[1::2], parts[2::2], strict=True)
        return tuple(Message("user" if mark == self.human else "assistant", content.strip()) for mark, content in turns)
