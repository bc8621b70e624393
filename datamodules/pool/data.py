"""Preference pairs from a response pool, by scenario."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import override

from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.ranges import require_at_least
from datamodules.pool.pairs import PairChoice, PoolPairs
from datamodules.pool.scenarios import SCENARIOS, PairRules, ScenarioView
from datamodules.sources.prompt_split import split_by_prompt
from datamodules.sources.store import ExampleStore
from datamodules.tasks.base import Task
from datamodules.tasks.data import TaskDataModule


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
        num_ranked: further scored responses of each prompt at the most, which a reward model compares by score; other objectives
            do not read them, and pay for them.
        **text: further arguments of `TaskDataModule`.
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
        num_ranked: int = 0,
        **text: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(tokenizer, task, **text)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"expected val_fraction in [0, 1), got {val_fraction}. Use 0 to hold nothing out.")
        require_at_least(0, num_leftovers=num_leftovers)
        choice = PairChoice(scenario=scenario, mix=mix, shared=shared, rules=rules or PairRules(), limit=limit)
        self.pairs = PoolPairs(pool, choice, self.text, task, num_ranked)
        self._val_fraction = val_fraction
        self._num_leftovers = num_leftovers

    @property
    def view(self) -> ScenarioView:
        """The pairs, and what was left out of the pool."""
        return self.pairs.view

    @override
    def examples(self, split: str) -> ExampleStore | None:
        if split not in ("train", "val") or (split == "val" and not self._val_fraction):
            return None
        examples = self.pairs.examples
        if not self._val_fraction:
            return examples
        return examples.select(split_by_prompt(examples, self._val_fraction, self.seed)[split == "val"])

    @override
    def probe_bank(self) -> list[Example]:
        """The base bank, and with each prompt the pool's other responses to it."""
        bank = super().probe_bank()
        leftovers = self.pairs.leftovers({example.row_number for example in bank}, self._num_leftovers)
        return [_with_probes(example, leftovers.get(example.row_number, [])) for example in bank]


def _with_probes(example: Example, probes: Sequence[TokenizedCompletion]) -> Example:
    known = {completion.token_ids for completion in example.completions}
    return replace(example, completions=(*example.completions, *(probe for probe in probes if probe.token_ids not in known)))
