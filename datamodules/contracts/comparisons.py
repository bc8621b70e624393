"""Finds the completions of a prompt that are compared, while batches are packed on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import TokenizedCompletion


def comparisons_of(completions: Sequence[TokenizedCompletion]) -> list[tuple[int, int]]:
    """(better, worse) numbers of a prompt's completions: its pair; or all of different scores, where further samples are there.

    Probes and samples without a score are compared with nothing.
    """
    roles = [completion.role for completion in completions]
    if Role.SAMPLE not in roles:
        return pair_of(completions)
    scores = {number: c.score for number, c in enumerate(completions) if c.role != Role.PROBE and c.score is not None}
    # NaN is greater than nothing.
    return [(better, worse) for better in scores for worse in scores if scores[better] > scores[worse]]


def pair_of(completions: Sequence[TokenizedCompletion]) -> list[tuple[int, int]]:
    """(chosen, rejected) numbers of a prompt's completions, the first of each; nothing where one is missing."""
    roles = [completion.role for completion in completions]
    is_pair = Role.CHOSEN in roles and Role.REJECTED in roles
    return [(roles.index(Role.CHOSEN), roles.index(Role.REJECTED))] if is_pair else []


def score_gap(better: TokenizedCompletion, worse: TokenizedCompletion) -> float | None:
    """Difference of their scores in float32, as a device sees it; None where one is missing."""
    if better.score is None or worse.score is None:
        return None
    return float(np.float32(better.score) - np.float32(worse.score))
