"""What a step of a reward model hands to the callbacks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class RewardOutput:
    """The pairs of one microbatch."""

    chosen: Tensor
    """`[pairs]` r+; after backward its gradient is there."""
    rejected: Tensor
    """`[pairs]` r-; after backward its gradient is there."""
    losses: Tensor
    """`[pairs]` detached, nats."""
    gradient_scale: float
    """d(returned loss) / d(sum of losses), before the trainer's division by accumulate_grad_batches."""
    accumulation: int
    """The trainer's accumulate_grad_batches."""

    def margins(self) -> Tensor:
        """`[pairs]` r+ - r-, detached."""
        return (self.chosen - self.rejected).detach()

    def gradients(self) -> tuple[Tensor, Tensor] | None:
        """`([pairs], [pairs])` dl/dr+ and dl/dr- of each pair's own loss; None before backward."""
        if self.chosen.grad is None or self.rejected.grad is None:
            return None
        factor = self.accumulation / self.gradient_scale
        return self.chosen.grad * factor, self.rejected.grad * factor
