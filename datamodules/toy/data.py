"""The paper's toy as a data module: S independent seeds side by side, one prompt and one response a token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from typing_extensions import override

from datamodules.base import BaseDataModule
from datamodules.contracts.batches import CompletionBatch, StepShare
from datamodules.contracts.examples import Example
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import Tokenizer
from datamodules.loading.lengths import Lengths
from datamodules.loading.loader import SplitDataset
from datamodules.loading.sampler import Microbatch, StepPlan
from datamodules.sources.store import ExampleStore
from datamodules.toy.scenarios import (
    NUM_PROMPTS,
    Rejected,
    demonstrations,
    pair,
    rejected_responses,
    scenario_of,
    whole_row,
)

PASSES_PER_EPOCH = 100
"""Passes over the prompts in what the trainer calls an epoch: starting an epoch costs as much as several toy steps."""

_NO_LIMIT = 2**31
"""The toy needs no token budget."""


class ToyTokenizer:
    """Writes tokens as their numbers: prompts and responses have alphabets of their own, and no words."""

    @property
    def eos_token_id(self) -> None:
        """A response is one token; nothing ends it."""

    def decode(self, token_ids: list[int]) -> str:
        """The numbers, with spaces between."""
        return " ".join(map(str, token_ids))


class ToyPlan(StepPlan):
    """Every step holds `batch_size` prompts of every seed; each seed goes through its own prompts in its own order.

    The share of a step counts the prompts and targets of ONE seed: the loss of the step is then the sum over seeds of each
    seed's mean, so that a seed's gradient is what it would be if it trained alone.

    Args:
        lengths: of the examples, seed by seed.
        num_seeds: S.
        batch_size: prompts of each seed per step; divides NUM_PROMPTS.
        microbatches: per optimizer step.
        seed: of the first replica's order; replica s has seed + s.

    Raises:
        ValueError: if the batch size does not fit.
    """

    def __init__(self, lengths: Lengths, *, num_seeds: int, batch_size: int, microbatches: int, seed: int) -> None:
        super().__init__(lengths, microbatches=microbatches, max_tokens=_NO_LIMIT, seed=seed)
        self.num_seeds = num_seeds
        self.batch_size = batch_size
        if batch_size < 1 or NUM_PROMPTS % batch_size or microbatches > num_seeds * batch_size:
            raise ValueError(
                f"expected batch_size 1, 2 or 4 (prompts of each seed) and at most num_seeds * batch_size microbatches a step, "
                f"got {batch_size} with {num_seeds} seeds and {microbatches} microbatches. 4 is the full batch."
            )

    @property
    @override
    def steps_per_epoch(self) -> int:
        return PASSES_PER_EPOCH * (NUM_PROMPTS // self.batch_size)

    @override
    def settings(self) -> tuple[object, ...]:
        return self.num_seeds, self.batch_size

    @override
    def compositions(self, epoch: int) -> list[list[tuple[int, ...]]]:
        # [passes, seeds, prompts], then a step takes the next batch_size prompts of every seed.
        orders = np.stack([self._orders(number, epoch) for number in range(self.num_seeds)], axis=1)
        steps = np.split(orders, NUM_PROMPTS // self.batch_size, axis=2)
        in_turn = np.stack(steps, axis=1).reshape(self.steps_per_epoch, -1)
        return [self._cut(step) for step in np.sort(in_turn, axis=1).tolist()]

    @override
    def steps(self, epoch: int) -> list[list[Microbatch]]:
        targets = int(self.lengths.targets[0]) * self.batch_size
        share = StepShare(prompts=self.batch_size, targets=targets, microbatches=self.microbatches)
        return [[Microbatch(indices, share) for indices in step] for step in self.compositions(epoch)]

    @override
    def num_left_out(self, epoch: int = 0) -> int:
        return 0

    def _orders(self, number: int, epoch: int) -> np.typing.NDArray[np.int64]:
        """`[passes, prompts]` example indices of one seed."""
        generator = np.random.default_rng([self.seed + number, epoch])
        prompts = np.tile(np.arange(NUM_PROMPTS), (PASSES_PER_EPOCH, 1))
        return number * NUM_PROMPTS + generator.permuted(prompts, axis=1)

    def _cut(self, indices: list[int]) -> list[tuple[int, ...]]:
        return [tuple(part.tolist()) for part in np.array_split(indices, self.microbatches)]


class ToyDataModule(BaseDataModule):
    """What the toy's SFT step and preference step share.

    Prompt p of seed s is the token s * 4 + p. The probe bank is every response of every prompt, so probe monitors and
    the toy ledger see the whole distribution.

    Args:
        scenario: 1 both on-policy, 2 chosen off / rejected on, 3 chosen on / rejected off, 4 both off (paper Fig. 3).
        num_seeds: independent replicas trained side by side, each on its own mean loss.
        batch_size: prompts of each seed per step: 4 is the full batch, 1 and 2 are mini-batches in random order.
        seed: of the first replica's draws; replica s has seed + s.
        rejected: which response a prompt's pair rejects.
    """

    def __init__(
        self, scenario: int = 1, num_seeds: int = 5, batch_size: int = 4, seed: int = 0, rejected: Rejected = "fixed"
    ) -> None:
        super().__init__(batch_size=batch_size, max_tokens_per_batch=_NO_LIMIT, seed=seed, num_probe_prompts=0)
        require_at_least(1, num_seeds=num_seeds)
        self.scenario = scenario_of(scenario)
        self.num_seeds = num_seeds
        self.prompts_per_step = batch_size
        self._rejected = [rejected_responses(rejected, seed + number) for number in range(num_seeds)]

    @abstractmethod
    def example(self, number: int, prompt: int) -> Example:
        """Training example of a prompt of replica `number`."""

    @property
    @override
    def tokenizer(self) -> Tokenizer:
        return ToyTokenizer()

    @override
    def examples(self, split: str) -> Sequence[Example] | None:
        """All prompts of all seeds to train on; the toy holds nothing out."""
        return [self.example(number, prompt) for number, prompt in self._prompts()] if split == "train" else None

    @override
    def split_dataset(self, examples: ExampleStore) -> SplitDataset:
        return _LastPackedDataset(examples)

    @override
    def step_plan(self) -> ToyPlan:
        return ToyPlan(
            self.dataset("train").lengths,
            num_seeds=self.num_seeds,
            batch_size=self.prompts_per_step,
            microbatches=self._world_size * self._accumulation,
            seed=self.seed,
        )

    @override
    def probe_bank(self) -> list[Example]:
        return [whole_row(number, prompt, self._rejected[number]) for number, prompt in self._prompts()]

    def _prompts(self) -> list[tuple[int, int]]:
        return [(number, prompt) for number in range(self.num_seeds) for prompt in range(NUM_PROMPTS)]


class ToySFTDataModule(ToyDataModule):
    """Step 1: demonstrations of every prompt in the proportions of the scenario's initial row. See ToyDataModule."""

    @override
    def example(self, number: int, prompt: int) -> Example:
        return demonstrations(number, prompt, self.scenario)


class ToyPreferenceDataModule(ToyDataModule):
    """Step 2: one pair for each prompt. See ToyDataModule."""

    holds_rejected = True

    @override
    def example(self, number: int, prompt: int) -> Example:
        return pair(number, prompt, self._rejected[number][prompt])


class _LastPackedDataset(SplitDataset):
    """Packs a microbatch once if the next one is the same, as it always is in full-batch training."""

    def __init__(self, examples: ExampleStore) -> None:
        super().__init__(examples)
        self._last: tuple[Microbatch, CompletionBatch] | None = None

    @override
    def set_reference(self, token_logps: torch.Tensor, examples: Sequence[int] | None = None) -> None:
        super().set_reference(token_logps, examples)
        self._last = None

    @override
    def __getitem__(self, microbatch: Microbatch) -> CompletionBatch:
        if self._last is None or self._last[0] != microbatch:
            self._last = (microbatch, super().__getitem__(microbatch))
        return self._last[1]
