"""Options of PPO's updates; the trainer's options of the same names do not apply under manual optimization."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lightning_modules.ppo.aggregation import Aggregation, TokenMean


@dataclass(frozen=True)
class PPOSettings:
    """Settings of the updates on a rollout.

    Raises:
        ValueError: if a value is out of its range.
    """

    num_epochs: int = 2
    """Passes over a rollout, >= 1."""
    num_minibatches: int = 4
    """Optimizer steps a pass, >= 1; a step takes whole prompts with all their completions."""
    max_tokens_per_batch: int = 8192
    """Tokens of one forward pass, prompts counted once. A step that holds more accumulates gradients over several."""
    clip_range: float = 0.2
    """epsilon of the policy's clipped objective, in (0, 1)."""
    value_clip_range: float = 0.2
    """Furthest a value may move from the old one before its loss is clipped, > 0, in units of reward."""
    value_coefficient: float = 0.5
    """Weight of the critic's loss, > 0; matters where one learning rate serves both."""
    max_grad_norm: float = 1.0
    """The gradient's L2 norm is cut to this, the critic's apart from the policy's, > 0."""
    whiten_advantages: bool = True
    """Advantages of a rollout to mean 0 and variance 1 over its tokens."""
    missing_eos_penalty: float = 0.0
    """Taken off the score of a completion that was cut, >= 0."""
    aggregation: Aggregation = field(default_factory=TokenMean)
    """How the policy's losses of an update's tokens add up: TokenMean, CompletionMean (GRPO) or FixedLength (Dr. GRPO)."""
    kl_in_loss: float = 0.0
    """Weight of the KL to the reference (k3, a token) in the loss, >= 0, as GRPO has it; the reward's penalty is `kl`."""
    preservation: float = 0.0
    """Weight of the fall of good completions' tokens in the loss, >= 0: LLDS, arXiv 2512.04220, with 0.1. See `preserved`."""
    seed: int = 0
    """Seed of the order of the minibatches."""

    def __post_init__(self) -> None:
        if min(self.num_epochs, self.num_minibatches, self.max_tokens_per_batch) < 1:
            raise ValueError(
                f"expected num_epochs, num_minibatches and max_tokens_per_batch >= 1, got {self.num_epochs}, "
                f"{self.num_minibatches} and {self.max_tokens_per_batch}."
            )
        positive = (self.value_clip_range, self.value_coefficient, self.max_grad_norm)
        if not 0 < self.clip_range < 1 or not all(0 < number < math.inf for number in positive):
            raise ValueError(
                f"expected clip_range in (0, 1), value_clip_range, value_coefficient and max_grad_norm > 0, got {self.clip_range}, "
                f"{self.value_clip_range}, {self.value_coefficient} and {self.max_grad_norm}."
            )
        if not (0 <= self.kl_in_loss < math.inf and 0 <= self.preservation < math.inf):
            raise ValueError(f"expected finite kl_in_loss and preservation >= 0, got {self.kl_in_loss} and {self.preservation}.")
        if not 0 <= self.missing_eos_penalty < math.inf or self.seed < 0:
            raise ValueError(
                f"expected a finite missing_eos_penalty >= 0, which is taken off the score, and seed >= 0, got "
                f"{self.missing_eos_penalty} and {self.seed}."
            )
