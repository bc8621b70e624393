"""Rows with a prompt and any number of scored responses to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import BadRowError, CompletionRecord, Fault, Record, Text, reply_to
from datamodules.formats.cells import number_cell, text_cell
from datamodules.formats.columns import Row, RowFormat
from datamodules.formats.messages import parse_tools

RANKED = "ranked"
"""Kind of a response that is compared by its score and is no side of the pair."""


@dataclass(frozen=True)
class ScoredResponses(RowFormat):
    """A prompt, a list of responses and a list of their scores: the best one is chosen, the worst rejected, the first of equals.

    The others are compared by score where the objective compares more than two (`RewardModule`), a prompt counting as one however
    many responses it has. Objectives of pairs do not read them, and pay for them: give those `PairColumns`.
    """

    short_name = "scored"

    prompt: str = "prompt"
    """Column of the prompt: text or messages."""
    responses: str = "responses"
    """Column of the responses: a list of text."""
    scores: str = "scores"
    """Column of their scores: a list of numbers, higher is better. Compared within the row alone."""
    tools: str | None = "tools"
    """Column of the tools that the chat template is told of, where a row has them: a list, or JSON of one. null reads none."""
    has_control_tokens: bool = False
    """Whether special tokens that the text spells are special; else they are words, unless a text prompt begins with one."""

    @override
    def parse(self, row: Row, row_number: int) -> Record:
        prompt = text_cell(row, self.prompt)
        texts, scores = _list(row, self.responses), _list(row, self.scores)
        if len(texts) != len(scores):
            raise BadRowError(Fault.WRONG_TYPE, f"{len(texts)} {self.responses!r} with {len(scores)} {self.scores!r}")
        responses = [_response(prompt, {"response": text, "score": score}) for text, score in zip(texts, scores, strict=True)]
        completions = tuple(_with_sides(responses))
        return Record(prompt, completions, row_number, parse_tools(row, self.tools), self.has_control_tokens)


def _list(row: Row, column: str) -> Sequence[object]:
    cell = row.get(column)
    if cell is None:
        raise BadRowError(Fault.MISSING_FIELD, f"no {column!r} among {sorted(row)}")
    if isinstance(cell, str) or not isinstance(cell, Sequence):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {type(cell).__name__}; expected a list")
    return cell


def _response(prompt: Text, cells: Row) -> CompletionRecord:
    text = text_cell(cells, "response")
    if not isinstance(text, str):
        raise BadRowError(Fault.WRONG_TYPE, f"a response is {type(text).__name__}; expected text")
    return CompletionRecord(reply_to(prompt, text), Role.SAMPLE, RANKED, number_cell(cells, "score"))


def _with_sides(responses: Sequence[CompletionRecord]) -> list[CompletionRecord]:
    """The pair first, so that whatever knows pairs alone sees one."""
    scores = [response.score for response in responses if response.score is not None]
    if len(set(scores)) < 2:
        raise BadRowError(Fault.NO_DIFFERENCE, f"{len(scores)} responses, scores {sorted(set(scores))}")
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    pair = [
        replace(responses[best], role=Role.CHOSEN, kind="chosen"),
        replace(responses[worst], role=Role.REJECTED, kind="rejected"),
    ]
    return pair + [response for i, response in enumerate(responses) if i not in (best, worst)]
