"""Step plans: the prompts of every optimizer step and its microbatches, fixed before the first step.

A plan is a pure function of (lengths, seed, epoch), so that every rank and every resumed process computes the same one.
Tokens are packed rows: a prompt once, then its completions.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from datamodules.contracts.batches import StepShare
from datamodules.contracts.partition import greedy_runs, split_to_multiple
from datamodules.loading.lengths import Ints, Lengths


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Examples of one forward and backward pass."""

    indices: tuple[int, ...]
    """Indices of the examples within their split, at least one."""
    share: StepShare
    """Counts of the whole optimizer step."""
    step: tuple[tuple[int, ...], ...] = ()
    """Indices of each microbatch that the rank takes of the step, this one among them; empty where no step is planned."""


class StepPlan(ABC):
    """Training order: `steps_per_epoch` optimizer steps of `microbatches` microbatches each, drawn anew every epoch.

    Every epoch has the same number of steps (Lightning reads it once). Prompts that cannot fill a step sit out that epoch,
    another choice each time: `num_left_out` counts them.

    Args:
        lengths: of the split.
        microbatches: per optimizer step: world size x accumulate_grad_batches.
        max_tokens: no microbatch packs more rows than this.
        seed: of the order.

    Raises:
        ValueError: if an example exceeds `max_tokens`, or there are too few for one step.
    """

    def __init__(self, lengths: Lengths, *, microbatches: int, max_tokens: int, seed: int) -> None:
        require_fitting(lengths.rows, max_tokens)
        self.lengths = lengths
        self.microbatches = microbatches
        self.max_tokens = max_tokens
        self.seed = seed

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimizer steps in every epoch, >= 1."""

    @abstractmethod
    def compositions(self, epoch: int) -> list[list[tuple[int, ...]]]:
        """`[steps_per_epoch]` lists of `microbatches` index tuples."""

    @abstractmethod
    def settings(self) -> tuple[object, ...]:
        """What the plan depends on besides lengths and seed."""

    def steps(self, epoch: int) -> list[list[Microbatch]]:
        """The epoch's steps, in order, each cut into `microbatches` microbatches that carry the step's counts."""
        steps = self.compositions(epoch)
        shares = [self.lengths.share(step) for step in steps]
        return [[Microbatch(indices, share) for indices in step] for step, share in zip(steps, shares, strict=True)]

    def num_left_out(self, epoch: int = 0) -> int:
        """Prompts that sit out this epoch because they cannot fill a step."""
        return len(self.lengths.rows) - sum(len(indices) for step in self.compositions(epoch) for indices in step)

    def fingerprint(self) -> str:
        """Hex digest: plans with equal digests give the same steps in every epoch."""
        return hashlib.sha256(repr(self.parts()).encode()).hexdigest()[:16]

    def parts(self) -> dict[str, str]:
        """What the plan is made of, by name: what differs between two plans can be said."""
        return {
            "order": type(self).__name__,
            "seed": str(self.seed),
            "batch size": str(self.settings()),
            "number of prompts": str(len(self.lengths.rows)),
            "lengths of the prompts": hashlib.sha256(self.lengths.rows.tobytes()).hexdigest()[:16],
        }

    def generator(self, *key: int) -> np.random.Generator:
        """Random numbers that depend on the seed and `key` alone."""
        return np.random.default_rng([self.seed, *key])


def evaluation_plan(rows: Ints, *, max_tokens: int, world_size: int = 1) -> list[tuple[int, ...]]:
    """Every example once, in order, as microbatches whose number is a multiple of `world_size`; rank r takes r, r + world_size, ...

    Where there are too few examples to go round, microbatches grow past `max_tokens` (up to double): evaluation
    keeps no activations, so there is room.

    Args:
        rows: `[examples]` packed tokens of each.
        max_tokens: budget of a microbatch.
        world_size: ranks.

    Returns:
        Non-empty runs of consecutive indices.

    Raises:
        ValueError: if an example exceeds `max_tokens`, or there are fewer examples than ranks.
    """
    require_fitting(rows, max_tokens)
    if len(rows) < world_size:
        raise ValueError(f"expected at least one example for each of {world_size} ranks, got {len(rows)}. Use fewer ranks.")
    lengths = rows.tolist()
    runs = split_to_multiple(lengths, greedy_runs(lengths, max_tokens), world_size)
    return [tuple(range(first, last)) for first, last in runs]


def require_fitting(rows: Ints, max_tokens: int) -> None:
    """Refuse a split with an example that no microbatch can hold.

    Raises:
        ValueError: if an example has more than `max_tokens` rows.
    """
    too_long = np.flatnonzero(rows > max_tokens)
    if len(too_long):
        raise ValueError(
            f"expected every prompt with its completions to fit max_tokens_per_batch = {max_tokens}, got {len(too_long)} that "
            f"do not (the longest has {int(rows.max())} tokens). Raise max_tokens_per_batch, or lower max_length."
        )
