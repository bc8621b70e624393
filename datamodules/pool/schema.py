"""The response pool: one row a prompt, with scored responses from many sources and their origin.

`python -m datamodules.pool stats|validate POOL...` looks at pools, `... merge POOL... --output POOL` joins them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from datamodules.contracts.prompts import Sampling
from datamodules.contracts.records import BadRowError, Fault, Text, is_blank
from datamodules.formats.cells import number_cell, text_cell
from datamodules.formats.messages import parse_tools

POLICY = "policy"
"""Source of responses sampled from the model that is being aligned."""
DATASET = "dataset"
"""Source of the data set's own responses. Any other name is that of another model."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response and its provenance; what does not apply to it is None.

    Raises:
        BadRowError: if the score is NaN or infinite: such a response would be the best and the worst of its prompt.
    """

    text: str
    source: str
    """`policy`, `dataset`, or the name of another model."""
    score: float | None = None
    """On the judge's scale, higher is better; None until it has been judged."""
    judge: str | None = None
    """Name of the judge that gave the score."""
    judge_version: str | None = None
    """Changes whenever the judge could give the same response another score."""
    model: str | None = None
    """Fingerprint of the weights that it was sampled from."""
    sampling: Sampling | None = None
    seed: int | None = None
    """Seed of sampling."""
    is_cut: bool = False
    """Whether it was stopped by `max_new_tokens`: its text has no end."""

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            raise BadRowError(Fault.WRONG_TYPE, f"a response of {self.source!r} scores {self.score}; expected a finite number")


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A prompt with its responses.

    Raises:
        BadRowError: if the prompt or the text of a response is blank.
    """

    prompt: Text
    """Text, or the messages of a chat."""
    responses: tuple[Response, ...]
    answer: str | None = None
    """What a judge compares with: a final answer or a reference solution."""
    task: str | None = None

    def __post_init__(self) -> None:
        if is_blank(self.prompt):
            raise BadRowError(Fault.EMPTY_PROMPT, f"the prompt is {self.prompt!r}")

    def by_source(self, source: str) -> tuple[Response, ...]:
        """The responses of one source, in order."""
        return tuple(response for response in self.responses if response.source == source)


def parse_row(row: Mapping[str, object]) -> PoolRow:
    """The pool row in a JSON object or a row of Parquet.

    Raises:
        BadRowError: if something is missing, of the wrong type or blank.
    """
    responses = row.get("responses")
    if responses is None:
        raise BadRowError(Fault.MISSING_FIELD, f"no 'responses' among {sorted(row)}")
    if parse_tools(row, "tools"):
        raise BadRowError(Fault.TEMPLATE_DROPS, "'tools': a pool has no place for them; put their text into the prompt")
    if not isinstance(responses, list):
        raise BadRowError(Fault.WRONG_TYPE, f"'responses' is {type(responses).__name__}; expected a list of objects")
    return PoolRow(
        prompt=text_cell(row, "prompt"),
        responses=tuple(_parse_response(response) for response in responses),
        answer=_optional_text(row, "answer"),
        task=_optional_text(row, "task"),
    )


def row_to_json(row: PoolRow) -> dict[str, Any]:
    """What `parse_row` reads; fields that are None or False are left out."""
    return {
        "prompt": row.prompt if isinstance(row.prompt, str) else [message.fields() for message in row.prompt],
        **_present({"answer": row.answer, "task": row.task}),
        "responses": [_present(asdict(response)) for response in row.responses],
    }


def _parse_response(response: object) -> Response:
    if not isinstance(response, Mapping):
        raise BadRowError(Fault.WRONG_TYPE, f"a response is {type(response).__name__}; expected an object")
    text, source = (_text(response, name) for name in ("text", "source"))
    return Response(
        text=text,
        source=source,
        score=None if response.get("score") is None else number_cell(response, "score"),
        judge=_optional_text(response, "judge"),
        judge_version=_optional_text(response, "judge_version"),
        model=_optional_text(response, "model"),
        sampling=_parse_sampling(response.get("sampling")),
        seed=_optional_integer(response, "seed"),
        is_cut=bool(response.get("is_cut")),
    )


def _parse_sampling(cell: object) -> Sampling | None:
    if cell is None:
        return None
    if not isinstance(cell, Mapping):
        raise BadRowError(Fault.WRONG_TYPE, f"'sampling' is {type(cell).__name__}; expected an object")
    temperature, top_p, max_new_tokens = (number_cell(cell, name) for name in ("temperature", "top_p", "max_new_tokens"))
    assert temperature is not None, "number_cell gives None for no column only"
    assert top_p is not None, "likewise"
    assert max_new_tokens is not None, "likewise"
    return Sampling(int(max_new_tokens), temperature, top_p)


def _text(row: Mapping[str, object], column: str) -> str:
    text = _optional_text(row, column)
    if text is None:
        raise BadRowError(Fault.MISSING_FIELD, f"no {column!r} among {sorted(row)}")
    return text


def _optional_text(row: Mapping[str, object], column: str) -> str | None:
    cell = row.get(column)
    if cell is not None and not isinstance(cell, str):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {type(cell).__name__}; expected text")
    return cell


def _optional_integer(row: Mapping[str, object], column: str) -> int | None:
    cell = row.get(column)
    if cell is not None and (isinstance(cell, bool) or not isinstance(cell, int)):
        raise BadRowError(Fault.WRONG_TYPE, f"{column!r} is {type(cell).__name__}; expected a whole number")
    return cell


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value is not False}
