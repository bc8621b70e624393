"""Counts drawn tokens and completions, and reports them to the caller."""

from __future__ import annotations

import time

from lightning_modules.models.policy import OnProgress, SamplingProgress


class ProgressMeter:
    """Calls back after every step.

    Args:
        on_progress: the caller's function, or None.
        num_completions: in all.
        max_new_tokens: of each.
    """

    def __init__(self, on_progress: OnProgress | None, num_completions: int, max_new_tokens: int) -> None:
        self._on_progress = on_progress
        self._num_completions = num_completions
        self._max_new_tokens = max_new_tokens
        self._start = time.perf_counter()
        self._num_tokens = self._num_done = self._tokens_of_done = 0

    def step(self, num_tokens: int, lengths_done: list[int]) -> None:
        """Report `num_tokens` more tokens, and the lengths of the completions that are done now."""
        self._num_tokens += num_tokens
        self._num_done += len(lengths_done)
        self._tokens_of_done += sum(lengths_done)
        if self._on_progress is not None:
            self._on_progress(self._progress())

    def _progress(self) -> SamplingProgress:
        mean_length = self._tokens_of_done / self._num_done if self._num_done else float(self._max_new_tokens)
        return SamplingProgress(
            num_done=self._num_done,
            num_completions=self._num_completions,
            num_tokens=self._num_tokens,
            expected_tokens=max(self._num_tokens, mean_length * self._num_completions),
            seconds=time.perf_counter() - self._start,
        )
