"""The output of a training or validation step, which callbacks read: the same for SFT, the DPO family and PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from lightning_modules.losses.base import Reads, SequenceLogps
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class PairOutput:
    """The pairs of one microbatch under a loss of pairs, of their tokens, or of whole groups (a pair is the best and the worst)."""

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
    reads: Reads = Reads.PAIRS
    """What the gradient of the loss goes through."""


@dataclass(frozen=True, eq=False)
class LabelledOutput:
    """The single labelled completions of one microbatch."""

    losses: Tensor
    """`[completions]` detached."""
    chosen: Tensor
    """`[desirable]` int64 numbers of the completions that are labelled good."""
    rejected: Tensor
    """`[undesirable]` int64 numbers of those that are labelled bad."""
    chosen_rewards: Tensor
    """`[desirable]` detached, implicit reward of the loss."""
    rejected_rewards: Tensor
    """`[undesirable]` detached."""


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
    """The same step seen as pairs; None where there are none (SFT, single completions)."""
    labelled: LabelledOutput | None = None
    """The same step seen as single labelled completions; None where it is not made of them."""

    def retain_gradients(self) -> None:
        """Have backward leave the gradients that the readings below are made of."""
        kept = [self.stats.logps]
        if self.pairs is not None:
            kept += [self.pairs.sequences.policy_chosen, self.pairs.sequences.policy_rejected]
        if self.stats.divergence is not None:
            kept.append(self.stats.divergence.kl)
        for tensor in kept:
            tensor.retain_grad()

    def token_gradients(self) -> Tensor | None:
        """`[K]` g_t = d(unit loss)/dlogp_t, free of batch size, ranks and accumulation; None before backward."""
        gradient = self.stats.logps.grad
        return None if gradient is None else gradient * (self.accumulation / self.gradient_scale)

    def divergence_gradients(self) -> Tensor | None:
        """`[K]` k_t = d(unit loss)/dKL_t, as `token_gradients`; None where the loss does not read the KL, and before backward."""
        gradient = None if self.stats.divergence is None else self.stats.divergence.kl.grad
        return None if gradient is None else gradient * (self.accumulation / self.gradient_scale)

    def incentives(self) -> tuple[Tensor, Tensor] | None:
        """`([pairs], [pairs])`: d_w = -dl/dlog pi+ and d_l = dl/dlog pi- of each pair's own loss.

        None before backward, and where the loss reads more than the two log-probs of each pair: two numbers would not say all.
        """
        if self.pairs is None or self.stats.logps.grad is None or self.pairs.reads is not Reads.PAIRS:
            return None
        sequences = self.pairs.sequences
        return -self._side(sequences.policy_chosen), self._side(sequences.policy_rejected)

    def pulls(self) -> Tensor | None:
        """`[Q]` -dl/dlog pi of each completion, per nat: above 0 it is pulled up, below 0 pushed down; None before backward.

        Where a loss weighs the tokens of a completion differently, the mean over them: what an equal change of all of them does.
        """
        gradients = self.token_gradients()
        if gradients is None:
            return None
        total, number = gradients.new_zeros(2, self.stats.num_sequences).unbind(0)
        total = total.index_add(0, self.stats.target_sequence, gradients)
        return -total / number.index_add(0, self.stats.target_sequence, torch.ones_like(gradients))

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
