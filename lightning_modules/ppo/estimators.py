"""Estimators of advantages from rewards: with a critic (GAE), or without one (RLOO, GRPO, ReMax)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from datamodules.contracts.batches import sum_by_sequence
from lightning_modules.ppo.advantages import generalized_advantages, group_advantages, leave_one_out_advantages


@dataclass(frozen=True, eq=False)
class Evidence:
    """Data for estimating advantages of Q completions of K tokens."""

    rewards: Tensor
    """`[K]` reward of each token: KL penalty, token rewards, and on the last token the completion's score."""
    lengths: Tensor
    """`[Q]` tokens of each completion."""
    groups: Tensor
    """`[Q]` prompt number of each, in [0, P)."""
    values: Tensor | None
    """`[K]` the critic's, where there is one."""
    greedy_scores: Tensor | None
    """`[P]` score of each prompt's greedy completion, where it is asked for."""

    def sequence(self) -> Tensor:
        """`[K]` completion of each token."""
        return torch.arange(len(self.lengths)).repeat_interleave(self.lengths)

    def totals(self) -> Tensor:
        """`[Q]` rewards summed over each completion."""
        return sum_by_sequence(self.rewards, self.sequence(), len(self.lengths))


class AdvantageEstimator(ABC):
    """A_t of every sampled token."""

    needs_critic: ClassVar[bool] = False
    needs_greedy: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, evidence: Evidence) -> tuple[Tensor, Tensor | None]:
        """`[K]` advantages, and `[K]` returns that a critic is to predict (None without one)."""


@dataclass(frozen=True)
class GAE(AdvantageEstimator):
    """Generalised advantage estimation (`generalized_advantages`).

    Raises:
        ValueError: if a value is out of its range.
    """

    needs_critic = True

    gamma: float = 1.0
    """Discount, in [0, 1]."""
    gae_lambda: float = 0.95
    """lambda in [0, 1]; 1 gives the Monte-Carlo advantage."""

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise ValueError(f"expected gamma and gae_lambda in [0, 1], got {self.gamma} and {self.gae_lambda}.")

    @override
    def __call__(self, evidence: Evidence) -> tuple[Tensor, Tensor | None]:
        assert evidence.values is not None, "the module gives an estimator what it needs"
        return generalized_advantages(
            evidence.rewards, evidence.values, evidence.lengths, gamma=self.gamma, gae_lambda=self.gae_lambda
        )


@dataclass(frozen=True)
class RLOO(AdvantageEstimator):
    """Every token has its completion's total reward minus the mean of the prompt's other completions (arXiv 2402.14740)."""

    @override
    def __call__(self, evidence: Evidence) -> tuple[Tensor, Tensor | None]:
        advantages = leave_one_out_advantages(evidence.totals(), evidence.groups)
        return advantages[evidence.sequence()], None


@dataclass(frozen=True)
class GRPO(AdvantageEstimator):
    """Every token has its completion's total reward minus the mean of its prompt's, over their deviation (arXiv 2402.03300).

    Leave `settings.whiten_advantages` off with it, as its source does.
    """

    is_scaled: bool = True
    """Whether it is divided by the standard deviation of the prompt's rewards (over n - 1) plus 1e-4; Dr. GRPO (arXiv 2503.20783)
    does not, because it makes easy and hard prompts count more."""

    @override
    def __call__(self, evidence: Evidence) -> tuple[Tensor, Tensor | None]:
        advantages = group_advantages(evidence.totals(), evidence.groups, is_scaled=self.is_scaled)
        return advantages[evidence.sequence()], None


@dataclass(frozen=True)
class ReMax(AdvantageEstimator):
    """Every token has its completion's total reward minus the score of the prompt's greedy completion (arXiv 2310.10505)."""

    needs_greedy = True

    @override
    def __call__(self, evidence: Evidence) -> tuple[Tensor, Tensor | None]:
        assert evidence.greedy_scores is not None, "the module gives an estimator what it needs"
        advantages = evidence.totals() - evidence.greedy_scores[evidence.groups]
        return advantages[evidence.sequence()], None
