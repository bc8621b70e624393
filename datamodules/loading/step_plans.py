"""The two ways to form optimizer steps: a fixed number of prompts, or a fixed number of tokens."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from datamodules.contracts.partition import balanced_runs, greedy_runs
from datamodules.loading.lengths import Ints, Lengths
from datamodules.loading.sampler import StepPlan

# Microbatches' worth of prompts that are sorted by length together when microbatches are filled to the token budget.
_WINDOW = 16


class FixedSizePlan(StepPlan):
    """Exactly `batch_size` prompts a step. Which ones does not depend on the number of ranks or accumulation steps.

    Length-bucketed by strata: the prompts are sorted by length and cut into `batch_size` buckets, and a step draws one
    prompt of each, without replacement within the epoch. So every prompt is as likely as any other, every step costs
    about the same, and one look at the longest prompt of each bucket proves that all steps of all epochs keep to
    `max_tokens`.

    Args:
        lengths: of the split.
        batch_size: prompts per optimizer step over all ranks and accumulation steps.
        microbatches: per optimizer step: world size x accumulate_grad_batches.
        max_tokens: no microbatch packs more rows than this.
        seed: of the order.
        world_size: ranks among the microbatches, named in errors.

    Raises:
        ValueError: if an example or a step does not fit, or there are fewer prompts than `batch_size`.
    """

    def __init__(
        self, lengths: Lengths, *, batch_size: int, microbatches: int, max_tokens: int, seed: int, world_size: int = 1
    ) -> None:
        super().__init__(lengths, microbatches=microbatches, max_tokens=max_tokens, seed=seed)
        self.batch_size = batch_size
        if len(lengths.rows) < batch_size:
            raise ValueError(
                f"expected at least batch_size = {batch_size} prompts, got {len(lengths.rows)}. Lower batch_size or add data."
            )
        self._require_steps_fit(world_size)

    @property
    @override
    def steps_per_epoch(self) -> int:
        return len(self.lengths.rows) // self.batch_size

    @override
    def settings(self) -> tuple[object, ...]:
        return (self.batch_size,)

    @override
    def compositions(self, epoch: int) -> list[list[tuple[int, ...]]]:
        generator = self.generator(epoch)
        order = generator.permutation(len(self.lengths.rows))[: self.steps_per_epoch * self.batch_size]
        order = order[np.argsort(self.lengths.rows[order], kind="stable")]
        strata = order.reshape(self.batch_size, self.steps_per_epoch)
        steps = generator.permuted(strata, axis=1).T
        return [self._cut(step) for step in steps]

    def _cut(self, step: Ints) -> list[tuple[int, ...]]:
        """Runs of similar lengths, balanced by tokens. `step` comes sorted by length, for strata are."""
        bounds = balanced_runs(self.lengths.rows[step].tolist(), self.microbatches)
        indices = step.tolist()
        return [tuple(indices[first:last]) for first, last in bounds]

    def _require_steps_fit(self, world_size: int) -> None:
        longest = self._longest_step()
        if self._fits(longest, self.microbatches):
            return
        accumulations = range(1, self.batch_size // world_size + 1)
        enough = next((a for a in accumulations if self._fits(longest, a * world_size)), None)
        remedy = (
            f"Set accumulate_grad_batches to {enough}."
            if enough
            else ("Raise max_tokens_per_batch, or choose a batch_size with at least one prompt for each rank.")
        )
        raise ValueError(
            f"expected a step of {self.batch_size} prompts (up to {sum(longest)} tokens) to fit {self.microbatches} non-empty "
            f"microbatches of at most max_tokens_per_batch = {self.max_tokens} tokens, got no way to cut it "
            f"({world_size} ranks, accumulate_grad_batches {self.microbatches // world_size}). {remedy}"
        )

    def _longest_step(self) -> list[int]:
        """The i-th shortest prompt of any step of any epoch has at most this many tokens."""
        by_length = np.sort(self.lengths.rows)
        left_out = len(by_length) - self.steps_per_epoch * self.batch_size
        ends = np.arange(1, self.batch_size + 1) * self.steps_per_epoch - 1 + left_out
        longest: list[int] = by_length[ends].tolist()
        return longest

    def _fits(self, longest: list[int], microbatches: int) -> bool:
        if microbatches > self.batch_size:
            return False
        return all(sum(longest[first:last]) <= self.max_tokens for first, last in balanced_runs(longest, microbatches))


class TokenBudgetPlan(StepPlan):
    """Microbatches filled to `max_tokens`, a step being `microbatches` of them: prompts per step vary, tokens hardly do.

    Which prompts share a microbatch is drawn once from the seed (windows of a shuffle, sorted by length, filled in
    order); each epoch shuffles the microbatches. So every epoch has the same number of steps. Microbatches that do not
    fill a last step sit out the epoch.

    Args:
        lengths: of the split.
        microbatches: per optimizer step: world size x accumulate_grad_batches.
        max_tokens: budget of a microbatch.
        seed: of the order.

    Raises:
        ValueError: if an example does not fit, or there are too few microbatches for one step.
    """

    def __init__(self, lengths: Lengths, *, microbatches: int, max_tokens: int, seed: int) -> None:
        super().__init__(lengths, microbatches=microbatches, max_tokens=max_tokens, seed=seed)
        self._filled = self._fill()
        if len(self._filled) < microbatches:
            raise ValueError(
                f"expected at least {microbatches} microbatches for one step, got {len(self._filled)} of up to {max_tokens} "
                "tokens. Lower max_tokens_per_batch or accumulate_grad_batches, or add data."
            )

    @property
    @override
    def steps_per_epoch(self) -> int:
        return len(self._filled) // self.microbatches

    @override
    def settings(self) -> tuple[object, ...]:
        return (self.max_tokens, self.microbatches)

    @override
    def compositions(self, epoch: int) -> list[list[tuple[int, ...]]]:
        order = self.generator(1, epoch).permutation(len(self._filled)).tolist()
        size = self.microbatches
        return [[self._filled[i] for i in order[step * size : (step + 1) * size]] for step in range(self.steps_per_epoch)]

    def _fill(self) -> list[tuple[int, ...]]:
        rows = self.lengths.rows
        shuffled = self.generator(0).permutation(len(rows))
        window = max(1, int(_WINDOW * self.max_tokens / rows.mean()))
        ordered: list[int] = []
        for number, start in enumerate(range(0, len(shuffled), window)):
            part = shuffled[start : start + window]
            by_length = part[np.argsort(rows[part], kind="stable")].tolist()
            # Every other window runs from long to short, so that a microbatch across a seam is of one length too.
            ordered += by_length if number % 2 == 0 else by_length[::-1]
        return [tuple(ordered[first:last]) for first, last in greedy_runs(rows[ordered].tolist(), self.max_tokens)]
