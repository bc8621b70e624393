"""The contract of a decoder: start prompts, add one token to every row, drop rows.

Shape legend: P prompts of a cohort, R rows (completions in progress) of a cohort, B rows of all cohorts, H hidden width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.models.generation.batching import Batching, batching_for


class Cohort(ABC):
    """Rows that were started together and have the same number of tokens of their own; holds their keys and values."""

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None:
        """Row i becomes what row `rows[i]` was; the others leave. `rows[i]` is i or lies behind the rows that stay."""


CohortT = TypeVar("CohortT", bound=Cohort)


class Decoder(ABC, Generic[CohortT]):
    """Runs a model's body a token at a time. All calls are made inside `mode()` and without gradient."""

    model: PreTrainedModel
    equal_lengths: bool
    """Whether the prompts of a cohort must have the same length."""

    def batching(self, num_tokens: int) -> Batching:
        """How much to decode together, with prompt and completion of `num_tokens`; called inside `mode()`."""
        return batching_for(self.model, num_tokens)

    @abstractmethod
    def mode(self) -> AbstractContextManager[None]:
        """The model made ready to decode; what was there before is put back, also after an error."""

    @abstractmethod
    def start(self, prompts: Sequence[Sequence[int]], copies: Sequence[int], max_new_tokens: int) -> tuple[CohortT, Tensor]:
        """Run each prompt once.

        Args:
            prompts: P prompts of at least one token.
            copies: rows of each prompt, >= 1.
            max_new_tokens: tokens a row may get.

        Returns:
            The cohort, its rows prompt by prompt, and `[R, H]` the hidden state that predicts each row's first token.
        """

    @abstractmethod
    def advance(self, cohorts: Sequence[CohortT], token_ids: Tensor) -> Tensor:
        """Append `[B]` tokens (on the model's device), cohort by cohort; returns `[B, H]`, what predicts the tokens after them."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """`[B, V]` logits of `[B, H]` as the policy has them, float32 or better."""
