"""Which prompts start when: as many as there is room for, of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.models.generation.completions import Request


@dataclass(frozen=True, slots=True)
class Batching:
    """How much is decoded together. Decides speed and memory only, never what is drawn.

    Raises:
        ValueError: if a limit is below 1.
    """

    max_rows: int = 64
    """Completions in progress. A prompt with more samples than that is run once for every so many."""
    max_prompt_tokens: int = 8192
    """Prompt tokens in one forward pass. A longer prompt is run alone."""

    def __post_init__(self) -> None:
        if self.max_rows < 1 or self.max_prompt_tokens < 1:
            raise ValueError(f"expected max_rows and max_prompt_tokens >= 1, got {self.max_rows} and {self.max_prompt_tokens}.")

    def next_bucket(self, waiting: Sequence[Request], num_active: int, *, equal_lengths: bool) -> int:
        """How many of the first waiting requests to start beside `num_active` rows; 0 to go on without.

        While rows are active nothing starts until a quarter of the room is free: a bucket costs a forward pass of its own,
        and each layer a few calls more a step.
        """
        room = self.max_rows - num_active
        if not waiting or (num_active and 4 * room < self.max_rows):
            return 0
        rows = tokens = count = 0
        for request in waiting:
            rows, tokens = rows + len(request.places), tokens + len(request.prompt)
            is_full = rows > room or tokens > self.max_prompt_tokens
            if is_full or (equal_lengths and len(request.prompt) != len(waiting[0].prompt)):
                break
            count += 1
        return count if count or num_active else 1
