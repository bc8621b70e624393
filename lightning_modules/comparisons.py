"""Which responses of a batch are compared with which."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batches import CompletionBatch, Role


class Comparisons(NamedTuple):
    """Pairs of sequences, the better one first."""

    pairs: Tensor
    """`[n, 2]` int64 sequence numbers."""
    weights: Tensor
    """`[n]` float32 > 0; those of a prompt add up to 1."""


def comparisons(batch: CompletionBatch) -> Comparisons:
    """The batch's pairs; or, of prompts with further scored samples, all responses of different scores (K choose 2).

    Probes are compared with nothing. With K responses a prompt has up to K (K - 1) / 2 comparisons for K forward passes; its
    weights keep it from counting more than a prompt with one pair (arXiv 2203.02155, Eq. 1).

    Raises:
        ValueError: if a prompt allows no comparison.
    """
    pairs = _ranked_pairs(batch) if (batch.roles == Role.SAMPLE).any() else batch.pairs
    prompts = batch.prompt_number[pairs[:, 0]]
    counts = torch.bincount(prompts, minlength=batch.num_prompts)
    if (counts == 0).any():
        raise ValueError(
            f"expected a better and a worse response for each of {batch.num_prompts} prompts, got {int((counts == 0).sum())} "
            "without. Use a data module of pairs, or of scored responses."
        )
    return Comparisons(pairs, 1 / counts[prompts].float())


def _ranked_pairs(batch: CompletionBatch) -> Tensor:
    assert batch.scores is not None, "samples are ranked by their scores"
    scores = torch.where(batch.roles == Role.PROBE, torch.nan, batch.scores)
    same_prompt = batch.prompt_number[:, None] == batch.prompt_number
    # NaN is greater than nothing.
    return (same_prompt & (scores[:, None] > scores)).nonzero()
