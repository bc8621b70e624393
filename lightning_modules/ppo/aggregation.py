"""Weights of the tokens in an update's loss: how much each token of a long completion counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override


class UpdateTotals(NamedTuple):
    """What a whole update holds, over microbatches and ranks."""

    completions: int
    """Completions."""
    tokens: int
    """Tokens of theirs."""


class Aggregation(ABC):
    """Weights of the tokens; an update's loss is their weighted sum over its number of tokens."""

    @abstractmethod
    def weights(self, lengths: Tensor, totals: UpdateTotals) -> Tensor:
        """`[Q]` weight of each token of a completion, in the type of `lengths`.

        Args:
            lengths: `[Q]` tokens of each completion of a microbatch, in floating point.
            totals: of the update.
        """


@dataclass(frozen=True)
class TokenMean(Aggregation):
    """Every token counts alike: the mean over an update's tokens (as PPO here, and DAPO, arXiv 2503.14476)."""

    @override
    def weights(self, lengths: Tensor, totals: UpdateTotals) -> Tensor:
        return torch.ones_like(lengths)


@dataclass(frozen=True)
class CompletionMean(Aggregation):
    """Every completion counts alike: the mean over completions of the mean over their tokens (GRPO, arXiv 2402.03300, Eq. 3)."""

    @override
    def weights(self, lengths: Tensor, totals: UpdateTotals) -> Tensor:
        return totals.tokens / (totals.completions * lengths)


@dataclass(frozen=True)
class FixedLength(Aggregation):
    """The sum over tokens by a fixed length, meaned over completions: no token counts more for being in a short completion.

    Dr. GRPO, arXiv 2503.20783.

    Raises:
        ValueError: if length is below 1.
    """

    length: int
    """Tokens; the data's `max_new_tokens` as a rule."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"expected length >= 1, got {self.length}. Use the data's max_new_tokens.")

    @override
    def weights(self, lengths: Tensor, totals: UpdateTotals) -> Tensor:
        return torch.full_like(lengths, totals.tokens / (totals.completions * self.length))
