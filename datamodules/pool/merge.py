"""Joins pools, and counts what a pool holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from datamodules.contracts.records import Text
from datamodules.pool.schema import PoolRow, Response


def merge_rows(rows: Iterable[PoolRow]) -> list[PoolRow]:
    """One row a prompt, in the order the prompts first appear, with the responses of all its rows.

    A response that is there twice with the same provenance (all its fields are equal) is kept once if it was not sampled; a
    sampled one may well come out twice, and is kept as often as the row with most of it has it.

    Raises:
        ValueError: if two rows of a prompt have different answers or tasks.
    """
    merged: dict[Text, PoolRow] = {}
    for row in rows:
        merged[row.prompt] = _joined(merged[row.prompt], row) if row.prompt in merged else row
    return list(merged.values())


def _joined(row: PoolRow, other: PoolRow) -> PoolRow:
    for name in ("answer", "task"):
        values = {value for value in (getattr(row, name), getattr(other, name)) if value is not None}
        if len(values) > 1:
            raise ValueError(f"expected one {name} for the prompt {str(row.prompt)[:80]!r}, got {sorted(values)}.")
    known = Counter(row.responses)
    fresh: list[Response] = []
    for response in other.responses:
        if known[response]:
            known[response] -= 1
        else:
            fresh.append(response)
    return replace(row, responses=(*row.responses, *fresh), answer=row.answer or other.answer, task=row.task or other.task)


@dataclass(frozen=True)
class SourceStats:
    """The responses of one source over a whole pool."""

    source: str
    responses: int
    prompts: int
    """Prompts that have at least one."""
    distinct: float
    """Share of different texts among the responses to a prompt, averaged over prompts, in (0, 1]."""
    characters: float
    """Mean length."""
    scores: Counter[float]
    """How often each score was given."""
    unscored: int
    judges: tuple[str, ...]
    """`name/version` of every judge."""
    models: tuple[str, ...]
    """Fingerprints of the models, as far as they are known."""

    @property
    def mean_score(self) -> float:
        """Mean of the scores that were given; NaN if there are none."""
        number = self.scores.total()
        return sum(score * count for score, count in self.scores.items()) / number if number else float("nan")


def pool_stats(rows: Iterable[PoolRow]) -> list[SourceStats]:
    """One entry a source, in alphabetical order."""
    groups: dict[str, list[tuple[Response, ...]]] = {}
    for row in rows:
        for source in sorted({response.source for response in row.responses}):
            groups.setdefault(source, []).append(row.by_source(source))
    return [_source_stats(source, groups[source]) for source in sorted(groups)]


def _source_stats(source: str, groups: list[tuple[Response, ...]]) -> SourceStats:
    responses = [response for group in groups for response in group]
    return SourceStats(
        source=source,
        responses=len(responses),
        prompts=len(groups),
        distinct=sum(len({response.text for response in group}) / len(group) for group in groups) / len(groups),
        characters=sum(len(response.text) for response in responses) / len(responses),
        scores=Counter(response.score for response in responses if response.score is not None),
        unscored=sum(response.score is None for response in responses),
        judges=tuple(sorted({f"{response.judge}/{response.judge_version}" for response in responses if response.judge})),
        models=tuple(sorted({response.model for response in responses if response.model})),
    )
