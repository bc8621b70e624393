"""Changes a number of the loss linearly over training: DPO-Shift's factor, a weight that fades, a growing beta."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from datamodules.contracts.stores import require
from lightning_modules.contracts import HasLoss
from lightning_modules.losses.base import Loss


def with_number(loss: Loss, path: str, value: float) -> Loss:
    """The loss with another number in a field, or in a field of a loss that it holds (`loss.beta`).

    Raises:
        ValueError: if there is no such field, it holds no number, or the loss refuses the value.
    """
    name, _, rest = path.partition(".")
    # Losses are frozen dataclasses on a base that is none, so that a config may name a subclass.
    own = cast(Any, loss)
    values = {f.name: getattr(loss, f.name) for f in fields(own)} if is_dataclass(own) else {}
    current = values.get(name)
    if not (isinstance(current, Loss) if rest else isinstance(current, float)):
        numbers = [field for field, held in values.items() if isinstance(held, float)]
        raise ValueError(
            f"expected a number of {type(loss).__name__} to change, got {path}. It has {', '.join(numbers) or 'none'}; those of a "
            "loss that it holds are loss.<name>."
        )
    changed: Loss = replace(own, **{name: with_number(current, rest, value) if isinstance(current, Loss) else value})
    return changed


class LossSchedule(Callback):
    """Moves a number of the loss from `start` at the first step to `end` at step `num_steps` + 1, where it stays.

    It depends on the step alone, so a resumed run goes on. Each step is made with the number of its own; validation takes that of
    the step before. DPO-Shift (arXiv 2502.07599) moves `shift` from 0.5 to 1, or from 1 to 0.5, over the whole training.

    Args:
        field: name of the number, such as `shift`; `loss.beta` is that of a loss that the loss holds.
        start: its value in the first step.
        end: its value after `num_steps` steps.
        num_steps: optimizer steps of the change, >= 1; the trainer's max_steps as a rule.

    Raises:
        ValueError: if a value is not finite or num_steps below 1; or, when a fit starts, if the loss has no such number or refuses
            it.
    """

    def __init__(self, field: str, start: float, end: float, num_steps: int) -> None:
        if num_steps < 1 or not (math.isfinite(start) and math.isfinite(end)):
            raise ValueError(f"expected finite start and end and num_steps >= 1, got {start}, {end} and {num_steps}.")
        self.field, self.start, self.end, self.num_steps = field, start, end, num_steps

    def value(self, step: int) -> float:
        """The number of the step after `step` optimizer steps."""
        share = min(1.0, step / self.num_steps)
        return (1 - share) * self.start + share * self.end

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = require(pl_module, HasLoss).loss
        for value in (self.start, self.end):
            with_number(loss, self.field, value)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            module = require(pl_module, HasLoss)
            module.loss = with_number(module.loss, self.field, self.value(trainer.global_step))
