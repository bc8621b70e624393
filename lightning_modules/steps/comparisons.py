"""Finds the responses of a batch that are compared with one another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch


class Comparisons(NamedTuple):
    """Pairs of sequences, the better one first."""

    pairs: Tensor
    """`[n, 2]` int64 sequence numbers."""
    weights: Tensor
    """`[n]` float32 > 0; those of a prompt add up to 1."""


def comparisons(batch: CompletionBatch) -> Comparisons:
    """A batch's pairs; or, of prompts with further scored samples, all responses of different scores (K choose 2).

    Probes are compared with nothing. With K responses a prompt has up to K (K - 1) / 2 comparisons for K forward passes; its
    weights keep it from counting more than a prompt with one pair (arXiv 2203.02155, Eq. 1).

    Raises:
        ValueError: if a prompt allows no comparison.
    """
    if batch.uncompared:
        raise ValueError(
            f"expected a better and a worse response for each of {batch.num_prompts} prompts, got {batch.uncompared} without. Use "
            "a data module of pairs, or of scored responses."
        )
    pairs = batch.pairs if batch.compared is None else batch.compared
    prompts = batch.prompt_number[pairs[:, 0]]
    ones = torch.ones_like(prompts, dtype=torch.float32)
    # Not bincount, for whose size the host waits.
    return Comparisons(pairs, 1 / ones.new_zeros(batch.num_prompts).index_add(0, prompts, ones)[prompts])
