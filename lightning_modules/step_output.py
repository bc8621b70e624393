"""The output of a training or validation step, for callbacks: the same for SFT, the DPO family and PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from lightning_modules.losses.base import SequenceLogps
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class PairOutput:
    """The pairs of one microbatch under a preference loss."""

    sequences: SequenceLogps
    """Per-pair log-probs; after backward the policy sides hold their gradients."""
    losses: Tensor
    """`[pairs]` detached."""
    chosen_rewards: Tensor
    """`[pairs]` detached, implicit reward of the loss."""
    rejected_rewards: Tensor
    """`[pairs]` detached."""
    is_logistic: bool = True
    """Whether the loss pushes each pair by sigma(-margin) of these rewards, times a constant."""


@dataclass(frozen=True, eq=False)
class StepOutput:
    """One microbatch, as the callbacks see it (the item `outputs["step"]` of `on_train_batch_end`)."""

    stats: TokenStats
    """Statistics at the scored positions; after backward `stats.logps.grad` holds dL_step/dlogp_t."""
    loss_sum: Tensor
    """`[]` sum of the unit losses of this microbatch; differentiable until backward has run."""
    num_units: int
    """Units the sum runs over (pairs for preference losses, completion tokens for SFT)."""
    gradient_scale: float
    """d(returned loss) / d(loss_sum), before the trainer's division by accumulate_grad_batches."""
    accumulation: int = 1
    """The trainer's accumulate_grad_batches, by which Lightning divides the loss before backward."""
    pairs: PairOutput | None = None
    """The same step seen as pairs; None where there are none (SFT)."""

    def token_gradients(self) -> Tensor | None:
        """`[K]` g_t = d(unit loss)/dlogp_t, free of batch size, ranks and accumulation; None before backward."""
        gradient = self.stats.logps.grad
        return None if gradient is None else gradient * (self.accumulation / self.gradient_scale)

    def incentives(self) -> tuple[Tensor, Tensor] | None:
        """`([pairs], [pairs])`: d_w = -dl/dlog pi+ and d_l = dl/dlog pi- of each pair's own loss; None before backward."""
        if self.pairs is None or self.stats.logps.grad is None:
            return None
        sequences = self.pairs.sequences
        return -self._side(sequences.policy_chosen), self._side(sequences.policy_rejected)

    def _side(self, logps: Tensor) -> Tensor:
        # A side that the loss does not read (SFT on the chosen one) is not in its graph.
        gradient = torch.zeros_like(logps) if logps.grad is None else logps.grad
        return gradient * (self.accumulation / self.gradient_scale)


class TrainingStepOutput(TypedDict):
    """What `training_step` gives Lightning, and the callbacks after it."""

    loss: Tensor
    step: StepOutput


class EvalStepOutput(TypedDict):
    """What `validation_step` and `test_step` give Lightning, and the callbacks after it."""

    step: StepOutput


class AnswersOutput(TypedDict):
    """What `test_step` gives for prompts: the token ids of every completion, as `predict_step` does."""

    completions: list[list[list[int]]]
