"""Prompts without completions, for sampling and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from datamodules.contracts.batches import Demand
from datamodules.contracts.ranges import require_at_least
from datamodules.tasks.base import TaskItem


@dataclass(frozen=True)
class Sampling:
    """How a response is drawn: from softmax(logits / temperature), restricted to the nucleus.

    Raises:
        ValueError: if a field is out of its range.
    """

    max_new_tokens: int = 256
    """Tokens of a response at the most, >= 1."""
    temperature: float = 1.0
    """0 means greedy decoding."""
    top_p: float = 1.0
    """Nucleus, in (0, 1]: the fewest likeliest tokens that hold this much probability."""

    def __post_init__(self) -> None:
        require_at_least(1, max_new_tokens=self.max_new_tokens)
        require_at_least(0, temperature=self.temperature)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected top_p in (0, 1], got {self.top_p}. 1 draws from the whole distribution.")


@dataclass(frozen=True, slots=True)
class TaskPrompt:
    """A problem of a task, tokenised."""

    item: TaskItem
    prompt_ids: tuple[int, ...]


def demand_of_prompts(prompts: Sequence[TaskPrompt], max_new_tokens: int, source: str) -> Demand:
    """What answering the prompts asks of a model."""
    return Demand(
        source,
        longest=max((len(prompt.prompt_ids) for prompt in prompts), default=0) + max_new_tokens,
        largest_token=max((max(prompt.prompt_ids) for prompt in prompts), default=-1),
        remedy=f"Lower max_new_tokens ({max_new_tokens}), or drop long prompts.",
        is_drawn=True,
    )


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to draw responses for, with all that the draw depends on."""

    prompts: tuple[TaskPrompt, ...]
    """None where a rank has one batch less than others."""
    sampling: Sampling
    num_samples: int
    """Responses to each prompt."""
    seed: int
    """Seed of sampling: with it, a response depends only on its prompt and its number."""
    eos_token_id: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Itself: it holds no tensor. Lightning moves a batch that can be asked to, and would take a frozen one apart."""
        return self
