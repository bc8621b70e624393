"""Selects the sequences and tokens of each kind in a batch, on the host, so that nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, sum_by_sequence


def host_lengths(batch: CompletionBatch) -> list[int]:
    """Q completion lengths on the host: `batch.lengths` without a device sync."""
    # A completion's keys are its prompt's and its own; a prompt has its own only.
    segments = zip(batch.query_lengths, batch.key_lengths, strict=True)
    return [query for query, key in segments if key > query]


def sequences_by_kind(batch: CompletionBatch) -> dict[str, Tensor]:
    """`{kind: [n] int64}` numbers of the sequences of each kind, in order, on the batch's device."""
    numbers: dict[str, list[int]] = {}
    for sequence, kind in enumerate(batch.kinds):
        numbers.setdefault(kind, []).append(sequence)
    return {kind: _on_device(torch.tensor(members), batch) for kind, members in numbers.items()}


def tokens_by_kind(batch: CompletionBatch) -> dict[str, Tensor]:
    """`{kind: [n] int64}` scored positions in [0, K) of each kind, in order, on the batch's device."""
    kinds = list(dict.fromkeys(batch.kinds))
    kind_of_sequence = torch.tensor([kinds.index(kind) for kind in batch.kinds])
    kind_of_token = kind_of_sequence.repeat_interleave(torch.tensor(host_lengths(batch)))
    return {kind: _on_device((kind_of_token == number).nonzero().squeeze(1), batch) for number, kind in enumerate(kinds)}


def sums_of_pairs(batch: CompletionBatch, token_values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of `[K]` values over the tokens of both sides: `([pairs], [pairs])`, chosen and rejected."""
    chosen, rejected = sum_by_sequence(token_values, batch.target_sequence, batch.num_sequences)[batch.pairs].unbind(1)
    return chosen, rejected


def _on_device(index: Tensor, batch: CompletionBatch) -> Tensor:
    return index.to(batch.target_ids.device, non_blocking=True)
