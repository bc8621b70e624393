"""The output of a reward model's step, which callbacks read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class RewardOutput:
    """The comparisons of one microbatch: its pairs, or more where more responses are scored."""

    chosen: Tensor
    """`[comparisons]` r+; after backward its gradient is there."""
    rejected: Tensor
    """`[comparisons]` r-; after backward its gradient is there."""
    losses: Tensor
    """`[prompts]` detached, nats: what the step adds up, the weighted sum over each prompt's comparisons."""
    weights: Tensor
    """`[comparisons]` of each in its prompt's loss, > 0; 1 where there are pairs alone."""
    pair_margins: Tensor
    """`[pairs]` r+ - r- of the pairs alone, detached."""
    gradient_scale: float
    """d(returned loss) / d(sum of losses), before the trainer's division by accumulate_grad_batches."""
    accumulation: int
    """The trainer's accumulate_grad_batches."""

    def margins(self) -> Tensor:
        """`[comparisons]` r+ - r-, detached."""
        return (self.chosen - self.rejected).detach()

    def gradients(self) -> tuple[Tensor, Tensor] | None:
        """`([comparisons], [comparisons])` dl/dr+ and dl/dr- of each one's own loss; None before backward."""
        if self.chosen.grad is None or self.rejected.grad is None:
            return None
        factor = self.accumulation / (self.gradient_scale * self.weights)
        return self.chosen.grad * factor, self.rejected.grad * factor
