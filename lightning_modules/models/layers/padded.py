"""The padded layout: one row for each completion, for models that cannot be packed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch


class PaddedBatch(NamedTuple):
    """Prompt plus completion of every sequence, padded on the right to T tokens."""

    input_ids: Tensor
    """`[Q, T]` int64."""
    attention_mask: Tensor
    """`[Q, T]` int64: 1 on tokens, 0 on padding."""
    position_ids: Tensor
    """`[Q, T]` int64."""
    target_index: Tensor
    """`[K]` int64: row of `[Q * T]` whose hidden state predicts each target of the batch."""


def pad(batch: CompletionBatch) -> PaddedBatch:
    """Unpack a batch: the keys of a completion's segment are its prompt and itself, in order."""
    lengths = [k for q, k in zip(batch.query_lengths, batch.key_lengths, strict=True) if k > q]
    keys = torch.split(batch.key_index, list(batch.key_lengths))
    # A prompt's segment sees itself only; a completion's sees more than itself.
    rows = [index for index, q, k in zip(keys, batch.query_lengths, batch.key_lengths, strict=True) if k > q]
    width = max(lengths)
    positions = torch.arange(width, device=batch.input_ids.device).expand(len(rows), width)
    mask = positions < torch.tensor(lengths, device=positions.device)[:, None]
    input_ids = torch.nn.utils.rnn.pad_sequence([batch.input_ids[index] for index in rows], batch_first=True)
    return PaddedBatch(
        input_ids=input_ids,
        attention_mask=mask.long(),
        position_ids=positions,
        # Row of the prompt plus completion = position of the token, as positions run on from the prompt.
        target_index=batch.target_sequence * width + batch.position_ids[batch.target_index],
    )
