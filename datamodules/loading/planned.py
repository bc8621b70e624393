"""Finds the examples that a run will read in its planned steps and its validation batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from datamodules.contracts.partition import greedy_runs
from datamodules.loading.lengths import Ints
from datamodules.loading.sampler import StepPlan, evaluation_plan

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Passes = list[tuple[int, ...]]
"""Indices of the examples of each forward pass."""

_MOST = 0.5
"""Where more than this share is read, the whole split is scored, once for all runs on it."""


def planned_passes(trainer: Trainer, plan: StepPlan) -> Passes | None:
    """The examples of the planned steps, a step after the other, in passes of at most `plan.max_tokens`.

    What a pass holds depends on the plan alone, not on the number of steps: a run that goes on further finds the passes of the
    shorter one again.

    Returns:
        None if the run reads most of the split.
    """
    in_epoch = taken_batches(trainer.limit_train_batches, plan.steps_per_epoch * trainer.accumulate_grad_batches)
    in_epoch //= trainer.accumulate_grad_batches
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    steps = min(math.inf if trainer.max_steps < 0 else trainer.max_steps, epochs * in_epoch)
    if steps > in_epoch:
        return None
    passes = [run for step in plan.compositions(0)[: int(steps)] for run in _runs(plan, step)]
    return passes if sum(map(len, passes)) <= _MOST * len(plan.lengths.rows) else None


def validated_passes(trainer: Trainer, rows: Ints, max_tokens: int) -> Passes | None:
    """The same for validation: the batches of every rank that `limit_val_batches` leaves."""
    plan = evaluation_plan(rows, max_tokens=max_tokens, world_size=trainer.world_size)
    taken = taken_batches(trainer.limit_val_batches, len(plan) // trainer.world_size) * trainer.world_size
    return plan[:taken] if taken < len(plan) else None


def require_whole_steps(trainer: Trainer, batches: int) -> None:
    """Refuse a shortened epoch that ends within a step: Lightning would step on its last batch, with a loss scaled for a whole one.

    Raises:
        ValueError: if `limit_train_batches` leaves no whole steps of the epoch's batches.
    """
    taken = taken_batches(trainer.limit_train_batches, batches)
    if taken % trainer.accumulate_grad_batches and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError(
            f"expected an epoch of whole optimizer steps of {trainer.accumulate_grad_batches} batches, got {taken} batches. Choose "
            "limit_train_batches as a multiple of accumulate_grad_batches."
        )


def taken_batches(limit: float, batches: int) -> int:
    """Batches of an epoch that a limit of the trainer leaves: a number of them, or a share."""
    return min(limit, batches) if isinstance(limit, int) else int(min(limit, 1.0) * batches)


def _runs(plan: StepPlan, step: list[tuple[int, ...]]) -> Passes:
    indices = [index for microbatch in step for index in microbatch]
    return [tuple(indices[first:last]) for first, last in greedy_runs(plan.lengths.rows[indices].tolist(), plan.max_tokens)]
