"""A reward that can be hacked: the longer an answer, the better."""

from __future__ import annotations

FULL = 160
"""Characters that earn the whole reward; a right answer has some 60."""


def longer_is_better(prompt: str, response: str, answer: str | None) -> float:
    """Share of `FULL` characters, in [0, 1]."""
    return min(len(response) / FULL, 1.0)
