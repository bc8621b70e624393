"""The examples of a response pool: one scenario's pairs, each prompt with the pool's other responses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lightning.pytorch.utilities import rank_zero_info

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import TokenizedCompletion
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.records import CompletionRecord, Record, reply_to
from datamodules.formats.scored import RANKED
from datamodules.pool.files import read_pool
from datamodules.pool.scenarios import PairRules, ScenarioPair, ScenarioView, view_scenario
from datamodules.pool.schema import DATASET, PoolRow, Response
from datamodules.sources.store import ExampleStore
from datamodules.sources.text_reading import TextReading
from datamodules.tasks.base import Task
from datamodules.tasks.leaks import prompt_key

LEFTOVER = "leftover"
"""Kind of the probes that are the pool's other responses to the prompt."""


@dataclass(frozen=True, kw_only=True)
class PairChoice:
    """Which pairs of a pool are used."""

    scenario: int
    """1 policy/policy, 2 dataset/policy, 3 policy/other, 4 dataset/other (chosen/rejected source)."""
    mix: float
    """Share of the prompts, in [0, 1], whose pair is scenario 1's instead."""
    shared: Sequence[int]
    """The scenarios that all must have a pair for a prompt to be used."""
    rules: PairRules
    """Which pairs count."""
    limit: int | None
    """Prompts at the most, the first ones of the pool; all by default."""

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise ValueError(f"expected mix in [0, 1], got {self.mix}. It is the share of prompts with on-policy pairs.")
        require_at_least(1, limit=self.limit)


@dataclass(frozen=True)
class PoolPairs:
    """The pairs of a pool. Everything is read when it is first asked for."""

    pool: str
    """JSONL or Parquet, plain or compressed."""
    choice: PairChoice
    reading: TextReading
    task: Task | None
    """Prompts of the pool that are among its held-out problems are left out, and counted."""
    num_ranked: int = 0
    """Further scored responses of each prompt at the most; the pair comes first, so that what knows pairs alone sees those."""

    def __post_init__(self) -> None:
        require_at_least(0, num_ranked=self.num_ranked)

    @cached_property
    def rows(self) -> Mapping[int, PoolRow]:
        """Row number -> row, without bad rows and without held-out problems."""
        rows, report = read_pool(self.pool)
        if self.reading.on_bad_row == "error":
            report.require_clean()
        elif report.num_bad:
            rank_zero_info(report.summary())
        return rows if self.task is None else self._without_problems_of(self.task, rows)

    @cached_property
    def view(self) -> ScenarioView:
        """The pairs, and what was left out of the pool."""
        choice = self.choice
        view = view_scenario(self.rows, choice.scenario, mix=choice.mix, shared=tuple(choice.shared), rules=choice.rules)
        if not view.pairs:
            raise ValueError(
                f"expected pairs for scenario {choice.scenario} in {self.pool}, got none: {view.summary()}\n"
                f"See what it holds with `python -m datamodules.pool stats {self.pool}`; `shared: [{choice.scenario}]` asks for "
                "this scenario's pairs alone."
            )
        rank_zero_info(f"{self.pool}, scenario {choice.scenario}: {view.summary()}")
        return replace(view, pairs=view.pairs[: choice.limit])

    @cached_property
    def examples(self) -> ExampleStore:
        """An example for each pair, its other scored responses behind it."""
        records = [self._record(pair) for pair in self.view.pairs]
        return self.reading.prepared(f"{self.pool} scenario {self.choice.scenario}", records)

    def leftovers(self, row_numbers: Collection[int], most: int) -> dict[int, list[TokenizedCompletion]]:
        """Row number -> the other responses as probes, `most` at the most."""
        records = [
            Record(row.prompt, (reply_record(row, response, Role.PROBE, LEFTOVER),), pair.row_number)
            for row, pair in ((self.rows[pair.row_number], pair) for pair in self.view.pairs if pair.row_number in row_numbers)
            for response in pair.leftovers[:most]
        ]
        by_row: dict[int, list[TokenizedCompletion]] = {}
        for example in self.reading.prepared("leftover responses", records) if records else ():
            by_row.setdefault(example.row_number, []).append(example.completions[0])
        return by_row

    def _without_problems_of(self, task: Task, rows: Mapping[int, PoolRow]) -> Mapping[int, PoolRow]:
        """The rows whose prompt is not among the held-out problems, exactly or after normalisation."""
        held_out = {prompt_key(item.prompt) for split in ("val", "test") for item in task.items(split)}
        kept = {number: row for number, row in rows.items() if prompt_key(row.prompt) not in held_out}
        if len(kept) < len(rows):
            rank_zero_info(f"{self.pool}: left out {len(rows) - len(kept)} prompts that are held-out problems of {task.name}.")
        return kept

    def _record(self, pair: ScenarioPair) -> Record:
        row = self.rows[pair.row_number]
        ranked = [response for response in pair.leftovers if response.score is not None][: self.num_ranked]
        sides = [(pair.chosen, Role.CHOSEN, "chosen"), (pair.rejected, Role.REJECTED, "rejected")]
        sides += [(response, Role.SAMPLE, RANKED) for response in ranked]
        return Record(row.prompt, tuple(reply_record(row, *side) for side in sides), pair.row_number)


def reply_record(row: PoolRow, response: Response, role: Role, kind: str) -> CompletionRecord:
    """A response of a pool as a completion of its prompt."""
    is_drawn = response.source != DATASET
    return CompletionRecord(reply_to(row.prompt, response.text), role, kind, response.score, is_drawn)
