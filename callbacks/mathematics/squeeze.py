"""Detects squeezing: both sides of a pair fall while the likeliest token gains (arXiv 2407.10490; docs/derivations.md 6.4)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, sum_by_sequence

MIN_MOVE = 0.01
"""Nats over a completion. Less is rounding."""


class Sharpness(NamedTuple):
    """A reading of the completions; the flag compares two."""

    token_logps: Tensor
    """`[K]` log p_y, nats."""
    top1_logps: Tensor
    """`[K]` log max_v p_v, nats."""


def squeezed(batch: CompletionBatch, before: Sharpness, now: Sharpness) -> Tensor:
    """`[pairs]` bool: whether since `before` log pi+ and log pi- both fell and the argmax along both completions rose.

    Each by more than 0.01 nats over its completion; for the argmax log max_v p_v is summed over both.
    """
    logps, top1 = (
        sum_by_sequence(after - start, batch.target_sequence, batch.num_sequences)[batch.pairs]
        for start, after in zip(before, now, strict=True)
    )
    return (logps < -MIN_MOVE).all(1) & (top1.sum(1) > MIN_MOVE)
