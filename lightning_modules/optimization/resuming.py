"""Gives a resumed optimizer the hyperparameters of the config instead of those in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

Hyperparameters = list[dict[str, Any]]
"""One dictionary a parameter group: learning rate, weight decay, ... as configured, before any schedule."""


def hyperparameters(optimizer: Optimizer) -> Hyperparameters:
    """What `optimizer` was built with."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def apply_changes(optimizer: Optimizer, then: Sequence[dict[str, Any]], now: Hyperparameters, *, is_scheduled: bool) -> None:
    """Give a restored optimizer the config's values, where they differ from those at the time of the checkpoint.

    Nothing is touched if the config is the same, so that a schedule of any kind goes on undisturbed.

    Args:
        optimizer: as restored from a checkpoint; changed in place.
        then: what it had been built with.
        now: what this run's config built.
        is_scheduled: whether a schedule sets the learning rate. Those of `schedules.py` follow the config by themselves.
    """
    for group, before, current in zip(optimizer.param_groups, then, now, strict=True):
        changed = {name: value for name, value in current.items() if before.get(name) != value}
        if is_scheduled:
            changed.pop("lr", None)
        if changed:
            rank_zero_warn(f"The config differs from the checkpoint's, and wins: the optimizer goes on with {changed}.")
        group.update(changed)


def require_same(then: Mapping[str, str] | None, now: Mapping[str, str], *, is_allowed: bool) -> None:
    """Refuse to go on with other data, or another reference, than the checkpoint was trained with.

    Args:
        then: `{what: digest}` of the run that wrote the checkpoint; None where it does not say.
        now: of this run.
        is_allowed: whether a difference is only warned of.

    Raises:
        ValueError: if something differs and is not allowed to; it is named.
    """
    if then is None:
        rank_zero_warn("The checkpoint does not record its training data, so it cannot be compared with this run's.")
        return
    changed = " and ".join(name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name))
    if changed and is_allowed:
        rank_zero_warn(f"The {changed} differ from the checkpoint's, as --allow_changed_data allows.")
    elif changed:
        raise ValueError(
            f"expected the {changed} that the checkpoint was trained with, got others. Resume with those of the run that wrote it, "
            "start a new run from its weights, or go on with --allow_changed_data."
        )


def count_batches_anew(loops: Mapping[str, Any], then: int, now: int) -> None:
    """Change Lightning's counts of a rank's microbatches, in place, where a step is cut into another number of them than it was.

    A run goes on with another number of processes, or of microbatches, as long as its steps stay the same ones. Lightning tells by
    the count of microbatches when a step is complete.

    Args:
        loops: of a checkpoint that was written after a whole step.
        then: microbatches of a rank in a step of the run that wrote it.
        now: the same of this run.
    """
    if then == now:
        return
    progress = loops["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        # The last batch is not counted as completed while the hooks that save are called.
        lag = counts["processed"] - counts["completed"]
        taken = counts["processed"] // then * now
        counts.update(ready=taken, started=taken, processed=taken, completed=taken - lag)
