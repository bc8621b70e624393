"""Learning-rate schedules in optimizer steps: a linear warm-up, then constant, linear or cosine.

Classes and not functions, because a config can give a class its arguments and leave the optimizer to the module. With s the
number of optimizer steps taken, w = `num_warmup_steps`, n = `num_steps` and eta the optimizer's own learning rate:

    lr(s) = eta (s + 1) / (w + 1)       while s < w, so that the first step already moves the weights
    lr(s) = eta decay((s - w) / (n - w)) after the warm-up; decay(0) = 1, decay(1) = final_fraction, and it stays there
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override


class WarmupSchedule(LRScheduler, ABC):
    """A linear warm-up, then `decay`: a closed form that depends only on the step.

    A checkpoint holds the position and nothing else: a resumed run takes the shape of the schedule and the learning rate from
    its config, like everything else.

    Args:
        optimizer: gives the learning rate at the top of the schedule.
        num_warmup_steps: optimizer steps before the learning rate is full, >= 0.

    Raises:
        ValueError: if `num_warmup_steps` is negative.
    """

    def __init__(self, optimizer: Optimizer, num_warmup_steps: int = 0) -> None:
        if num_warmup_steps < 0:
            raise ValueError(f"expected num_warmup_steps >= 0, got {num_warmup_steps}. Use 0 for none.")
        self.num_warmup_steps = num_warmup_steps
        super().__init__(optimizer)

    @abstractmethod
    def decay(self, step: int) -> float:
        """Factor on the learning rate after `step` >= `num_warmup_steps` optimizer steps, in [0, 1]."""

    def factor(self, step: int) -> float:
        """Factor on the learning rate after `step` optimizer steps, in [0, 1]."""
        if step < self.num_warmup_steps:
            return (step + 1) / (self.num_warmup_steps + 1)
        return self.decay(step)

    @override
    def get_lr(self) -> list[float | Tensor]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"step": self.last_epoch}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["step"]
        # The optimizer was restored before, with the learning rate of the checkpoint.
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


class ConstantSchedule(WarmupSchedule):
    """Constant after the warm-up."""

    @override
    def decay(self, step: int) -> float:
        return 1.0


class DecaySchedule(WarmupSchedule):
    """Falls from 1 to `final_fraction` between the warm-up and `num_steps`, and stays there.

    Args:
        optimizer: gives the learning rate at the top of the schedule.
        num_steps: optimizer steps until the fall is complete, the warm-up included; usually the trainer's `max_steps`.
        num_warmup_steps: optimizer steps before the learning rate is full, in [0, num_steps).
        final_fraction: share of the learning rate that is left at the end, in [0, 1].

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, optimizer: Optimizer, num_steps: int, num_warmup_steps: int = 0, final_fraction: float = 0.0) -> None:
        if num_steps <= num_warmup_steps:
            raise ValueError(
                f"expected num_steps > num_warmup_steps, got {num_steps} and {num_warmup_steps}. "
                "num_steps counts the warm-up too: set it to the trainer's max_steps."
            )
        if not 0 <= final_fraction <= 1:
            raise ValueError(f"expected final_fraction in [0, 1], got {final_fraction}. Use 0 to end at a learning rate of 0.")
        self.num_steps = num_steps
        self.final_fraction = final_fraction
        super().__init__(optimizer, num_warmup_steps)

    @abstractmethod
    def shape(self, progress: float) -> float:
        """The fall from 1 at `progress` 0 to 0 at `progress` 1."""

    @override
    def decay(self, step: int) -> float:
        progress = min(1.0, (step - self.num_warmup_steps) / (self.num_steps - self.num_warmup_steps))
        return self.final_fraction + (1 - self.final_fraction) * self.shape(progress)


class LinearSchedule(DecaySchedule):
    """A straight line down after the warm-up."""

    @override
    def shape(self, progress: float) -> float:
        return 1 - progress


class CosineSchedule(DecaySchedule):
    """Half a cosine down after the warm-up."""

    @override
    def shape(self, progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2
