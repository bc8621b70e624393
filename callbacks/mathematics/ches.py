"""CHES: the similarity of a pair's two completions in the model's hidden states, before any training (arXiv 2410.08847)."""

from __future__ import annotations

from torch import Tensor

from datamodules.contracts.batches import CompletionBatch


def ches(hidden: Tensor, batch: CompletionBatch) -> dict[str, Tensor]:
    """Centered hidden-embedding similarity of every pair: the higher, the more likely that training on it lowers chosen.

    With S the sum of the output layer's inputs h over a completion's scored positions (the last prompt token's predicts the
    first token, the last token's predicts none):
        ches           = <S+, S-> - ||S+||^2
        ches_per_token = <S+, S-> / (T+ T-) - ||S+||^2 / T+^2: the length taken out

    Completions are told apart by their positions, never by padding, so that a pair has the same score in every batch.

    Args:
        hidden: `[K, H]` input of the output layer at the scored positions (`TokenStats.hidden`).
        batch: the pairs.

    Returns:
        `{ches, ches_per_token: [pairs]}` float64, in squared units of h.
    """
    sums = hidden.new_zeros(batch.num_sequences, hidden.shape[1]).double()
    sums.index_add_(0, batch.target_sequence, hidden.double())
    chosen, rejected = sums[batch.pairs].unbind(1)
    chosen_lengths, rejected_lengths = batch.lengths[batch.pairs].unbind(1)
    means = chosen / chosen_lengths[:, None], rejected / rejected_lengths[:, None]
    return {"ches": _centered(chosen, rejected), "ches_per_token": _centered(*means)}


def _centered(chosen: Tensor, rejected: Tensor) -> Tensor:
    return ((rejected - chosen) * chosen).sum(1)
