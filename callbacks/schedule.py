"""When a callback acts: at the start, every n optimizer steps, at the end; once at each step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override


class Schedule:
    """The optimizer steps at which a callback acts, and the one at which it acted last.

    Args:
        every_n_steps: cadence in optimizer steps, >= 1.
        also_step_1: whether step 1 is always due. Training batches tell nothing of step 0.

    Raises:
        ValueError: if the cadence is below 1.
    """

    def __init__(self, every_n_steps: int, *, also_step_1: bool = False) -> None:
        if every_n_steps < 1:
            raise ValueError(f"expected every_n_steps >= 1, got {every_n_steps}. Leave the callback out to switch it off.")
        self.every_n_steps = every_n_steps
        self.also_step_1 = also_step_1
        self.acted_at = -1
        """-1 before it has acted."""

    def is_due(self, step: int) -> bool:
        """Whether the callback acts at optimizer step `step` (1-based)."""
        return step % self.every_n_steps == 0 or (self.also_step_1 and step == 1)


def step_of(trainer: Trainer, batch_idx: int) -> tuple[int, bool]:
    """The optimizer step (1-based) that a microbatch belongs to, and whether it is the last of the step.

    Call it in `on_train_batch_end`: there Lightning has advanced `global_step` already if the microbatch completed its step.
    """
    completes = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return trainer.global_step + (not completes), completes


class Scheduled(Callback):
    """Reads, draws or writes something about the policy as it stands, on a schedule; a subclass sets `schedule` and says what.

    Step 0 is the policy that training starts from; at step n the policy is read after step n.
    """

    schedule: Schedule

    @abstractmethod
    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do it. Called on every rank."""

    def has_begun(self, trainer: Trainer) -> bool:
        """Whether the start has been seen: by default, whether the run resumes another."""
        return trainer.global_step > 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_begun(trainer):
            return
        if trainer.global_step:
            name = type(self).__name__
            rank_zero_warn(f"The checkpoint has no first reading of {name}: changes are counted from step {trainer.global_step}.")
        self.act_now(trainer, pl_module)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, completes = step_of(trainer, batch_idx)
        if completes and self.schedule.is_due(step):
            self.act_now(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.schedule.acted_at != trainer.global_step:
            self.act_now(trainer, pl_module)

    def act_now(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act, and remember at which step."""
        self.schedule.acted_at = trainer.global_step
        self.act(trainer, pl_module)
