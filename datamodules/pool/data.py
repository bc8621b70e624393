"""Preference pairs from a response pool, by scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.answering import Answering
from datamodules.batches import Role
from datamodules.examples import Example, TokenizedCompletion
from datamodules.in_memory import OnBadRow
from datamodules.pool.files import read_pool
from datamodules.pool.scenarios import SCENARIOS, PairRules, ScenarioPair, ScenarioView, view_scenario
from datamodules.pool.schema import DATASET, PoolRow, Response
from datamodules.ranges import require_at_least
from datamodules.sources.prompt_split import split_by_prompt
from datamodules.sources.records import CompletionRecord, Record, reply_to
from datamodules.sources.store import ExampleStore
from datamodules.tasks.base import Task
from datamodules.tasks.data import TaskDataModule
from datamodules.tasks.leaks import prompt_key

LEFTOVER = "leftover"
"""Kind of the probes that are the pool's other responses to the prompt."""


class PoolDataModule(TaskDataModule):
    """Pairs of one of the paper's four scenarios (Table 4), on prompts that all of them share.

    Args:
        pool: JSONL or Parquet, plain or compressed.
        scenario: 1 policy/policy, 2 dataset/policy, 3 policy/other, 4 dataset/other (chosen/rejected source).
        tokenizer: folder, hub name, or `.gguf` file; null takes the policy's, which the command line fills in.
        task: where held-out problems come from; null for none. Prompts of the pool that are among them are left out, and counted.
        mix: share of the prompts, in [0, 1], whose pair is scenario 1's instead.
        shared: the scenarios that all must have a pair for a prompt to be used. Narrow it where a source is missing.
        rules: which pairs count; those that differ by a point at the least by default.
        limit: prompts at the most, the first ones of the pool; all by default.
        val_fraction: share of the prompts held out for validation, in [0, 1); 0 for none.
        num_leftovers: leftover responses of each prompt in the probe bank at the most.
        max_length: tokens of a prompt and one completion; the tail of a longer completion is cut.
        max_prompt_length: tokens of a prompt; the beginning of a longer one is cut. Uncut by default.
        on_bad_row: "error" or "skip", for rows of the pool and for pairs alike.
        batch_size: pairs per optimizer step over all ranks and accumulation steps; null fills every microbatch.
        max_tokens_per_batch: tokens in one forward pass at the most, prompts counted once.
        num_workers: processes that pack ahead.
        seed: of the order of the data, the split, and the probe bank.
        num_probe_prompts: prompts in the frozen probe bank.
        test_decoding: how `test` draws responses to the task's problems; greedy by default.
        trust_remote_code: run the Python files that come with the tokenizer, with all your rights: read them first.
    """

    holds_rejected = True

    def __init__(
        self,
        pool: str,
        scenario: int,
        tokenizer: str | None,
        task: Task | None = None,
        mix: float = 0.0,
        shared: Sequence[int] = tuple(SCENARIOS),
        rules: PairRules | None = None,
        limit: int | None = None,
        val_fraction: float = 0.0,
        num_leftovers: int = 4,
        max_length: int = 1024,
        max_prompt_length: int | None = None,
        on_bad_row: OnBadRow = "error",
        batch_size: int | None = 32,
        max_tokens_per_batch: int = 8192,
        num_workers: int = 0,
        seed: int = 0,
        num_probe_prompts: int = 16,
        test_decoding: Answering | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            task=task,
            max_length=max_length,
            max_prompt_length=max_prompt_length,
            on_bad_row=on_bad_row,
            batch_size=batch_size,
            max_tokens_per_batch=max_tokens_per_batch,
            num_workers=num_workers,
            seed=seed,
            num_probe_prompts=num_probe_prompts,
            test_decoding=test_decoding,
            trust_remote_code=trust_remote_code,
        )
        if not 0 <= val_fraction < 1:
            raise ValueError(f"expected val_fraction in [0, 1), got {val_fraction}. Use 0 to hold nothing out.")
        if not 0 <= mix <= 1:
            raise ValueError(f"expected mix in [0, 1], got {mix}. It is the share of prompts with on-policy pairs.")
        require_at_least(1, limit=limit)
        require_at_least(0, num_leftovers=num_leftovers)
        self._pool = pool
        self._scenario = scenario
        self._mix = mix
        self._shared = tuple(shared)
        self._rules = rules or PairRules()
        self._limit = limit
        self._val_fraction = val_fraction
        self._num_leftovers = num_leftovers

    @override
    def examples(self, split: str) -> ExampleStore | None:
        if split == "train":
            return self._split_store(0)
        return self._split_store(1) if split == "val" and self._val_fraction else None

    @override
    def probe_bank(self) -> list[Example]:
        """The base bank, and with each prompt the pool's other responses to it."""
        bank = super().probe_bank()
        leftovers = self._leftovers({example.row_number for example in bank})
        return [self._with_probes(example, leftovers.get(example.row_number, [])) for example in bank]

    @cached_property
    def view(self) -> ScenarioView:
        """The pairs, and what was left out of the pool."""
        view = view_scenario(self._rows, self._scenario, mix=self._mix, shared=self._shared, rules=self._rules)
        if not view.pairs:
            raise ValueError(
                f"expected pairs for scenario {self._scenario} in {self._pool}, got none: {view.summary()}\n"
                f"See what it holds with `python -m datamodules.pool stats {self._pool}`; `shared: [{self._scenario}]` asks for "
                "this scenario's pairs alone."
            )
        rank_zero_info(f"{self._pool}, scenario {self._scenario}: {view.summary()}")
        return replace(view, pairs=view.pairs[: self._limit])

    @cached_property
    def _rows(self) -> Mapping[int, PoolRow]:
        rows, report = read_pool(self._pool)
        if self._on_bad_row == "error":
            report.require_clean()
        elif report.num_bad:
            rank_zero_info(report.summary())
        return self._without_held_out(rows)

    def _without_held_out(self, rows: Mapping[int, PoolRow]) -> Mapping[int, PoolRow]:
        """The rows whose prompt is not among the task's held-out problems, exactly or after normalisation."""
        if self.task is None:
            return rows
        held_out = {prompt_key(item.prompt) for split in ("val", "test") for item in self.task.items(split)}
        kept = {number: row for number, row in rows.items() if prompt_key(row.prompt) not in held_out}
        if len(kept) < len(rows):
            rank_zero_info(
                f"{self._pool}: left out {len(rows) - len(kept)} prompts that are held-out problems of {self.task.name}."
            )
        return kept

    @cached_property
    def _store(self) -> ExampleStore:
        records = [_pair_record(self._rows[pair.row_number], pair) for pair in self.view.pairs]
        return self.prepared(f"{self._pool} scenario {self._scenario}", records)

    def _split_store(self, side: int) -> ExampleStore:
        if not self._val_fraction:
            return self._store
        return self._store.select(split_by_prompt(self._store, self._val_fraction, self.seed)[side])

    def _leftovers(self, row_numbers: set[int]) -> dict[int, list[TokenizedCompletion]]:
        """Row number -> the other responses, no more than asked for."""
        records = [
            Record(row.prompt, (_leftover(row, response),), number)
            for number, row, pair in ((pair.row_number, self._rows[pair.row_number], pair) for pair in self.view.pairs)
            if number in row_numbers
            for response in pair.leftovers[: self._num_leftovers]
        ]
        by_row: dict[int, list[TokenizedCompletion]] = {}
        for example in self.prepared("leftover responses", records) if records else ():
            by_row.setdefault(example.row_number, []).append(example.completions[0])
        return by_row

    def _with_probes(self, example: Example, probes: list[TokenizedCompletion]) -> Example:
        known = {completion.token_ids for completion in example.completions}
        return replace(example, completions=(*example.completions, *(probe for probe in probes if probe.token_ids not in known)))


def _leftover(row: PoolRow, response: Response) -> CompletionRecord:
    return reply_record(row, response, Role.PROBE, LEFTOVER)


def _pair_record(row: PoolRow, pair: ScenarioPair) -> Record:
    sides = ((pair.chosen, Role.CHOSEN, "chosen"), (pair.rejected, Role.REJECTED, "rejected"))
    return Record(row.prompt, tuple(reply_record(row, *side) for side in sides), pair.row_number)


def reply_record(row: PoolRow, response: Response, role: Role, kind: str) -> CompletionRecord:
    """A response of a pool as a completion of its prompt."""
    is_drawn = response.source != DATASET
    return CompletionRecord(reply_to(row.prompt, response.text), role, kind, response.score, is_drawn)
