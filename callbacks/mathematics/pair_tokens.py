"""Compares the two completions of a pair and classes every token, on the batch's own device.

Shapes: K scored positions, Q sequences, pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch

NONE = -1
"""Class, side or position of what does not exist."""


class TokenClass(IntEnum):
    """Relation of a token to the other completion of its pair. Exclusive, and complete for the tokens of pairs."""

    SHARED = 0
    """It is in the common prefix: same context, same token. Both sides' gradients meet at the same logits and (nearly) cancel."""
    DIVERGENT = 1
    """The first token at which the completions differ: same context, another token."""
    OVERLAP = 2
    """After the divergence, and the other completion holds this token somewhere."""
    NOVEL = 3
    """After the divergence, and the other completion does not hold this token."""

    @property
    def label(self) -> str:
        """Name in metrics."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class PairTokens:
    """The tokens of a batch, seen as pairs."""

    sides: Tensor
    """`[K]` int64: 0 chosen, 1 rejected, NONE outside the pairs."""
    classes: Tensor
    """`[K]` int64: TokenClass, NONE outside the pairs."""
    prefix_lengths: Tensor
    """`[pairs]` int64: tokens of the common prefix."""
    branches: Tensor
    """`[pairs, 2]` int64: scored position of the first divergent token of each side, NONE for a side that has none."""


_LAST: WeakKeyDictionary[CompletionBatch, PairTokens] = WeakKeyDictionary()
"""Several diagnostics ask for the classes of one batch."""


def pair_tokens(batch: CompletionBatch) -> PairTokens:
    """Compare the completions of every pair of `batch.pairs`; no device sync, once a batch.

    Where one completion is a prefix of the other (it was cut), only the longer one has a first divergent token.
    """
    if batch not in _LAST:
        _LAST[batch] = _compared(batch)
    return _LAST[batch]


def sums_by_class(tokens: PairTokens, values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of token values over every side and class.

    Args:
        tokens: sides and classes of the K positions.
        values: `[m, K]`.

    Returns:
        `[2, 4, m]` float64 sums by side (chosen, rejected) and TokenClass; `[2, 4]` int64 numbers of tokens.
    """
    number = len(TokenClass)
    cells = torch.arange(2 * number, device=values.device)[:, None]
    member = torch.where(tokens.sides == NONE, NONE, tokens.sides * number + tokens.classes) == cells
    sums = member.double() @ values.double().T
    return sums.view(2, number, -1), member.sum(1).view(2, number)


def _compared(batch: CompletionBatch) -> PairTokens:
    lengths, sequence = batch.lengths, batch.target_sequence
    starts = lengths.cumsum(0) - lengths
    partners, sides = _by_sequence(batch)
    partner = partners[sequence]
    offsets = torch.arange(batch.num_targets, device=sequence.device) - starts[sequence]
    paired = partner != NONE
    opposite = (starts[partner] + offsets).clamp(0, batch.num_targets - 1)
    same = paired & (offsets < lengths[partner]) & (batch.target_ids == batch.target_ids[opposite])
    # Offset of a sequence's first token that is not in the common prefix; its length where all are.
    first = lengths.scatter_reduce(0, sequence, torch.where(same, lengths[sequence], offsets), "amin")
    classes = torch.where(_is_in_partner(batch, partner), TokenClass.OVERLAP, TokenClass.NOVEL)
    classes = torch.where(offsets == first[sequence], TokenClass.DIVERGENT, classes)
    classes = torch.where(offsets < first[sequence], TokenClass.SHARED, classes)
    branches = torch.where(first < lengths, starts + first, NONE)
    return PairTokens(
        sides=sides[sequence],
        classes=torch.where(paired, classes, NONE),
        prefix_lengths=first[batch.pairs[:, 0]],
        branches=branches[batch.pairs],
    )


def _by_sequence(batch: CompletionBatch) -> tuple[Tensor, Tensor]:
    """`([Q], [Q])`: the other sequence of its pair, and the side."""
    chosen, rejected = batch.pairs.unbind(1)
    nothing = torch.full_like(batch.lengths, NONE)
    partners = nothing.scatter(0, chosen, rejected).scatter(0, rejected, chosen)
    return partners, nothing.scatter(0, chosen, 0).scatter(0, rejected, 1)


def _is_in_partner(batch: CompletionBatch, partner: Tensor) -> Tensor:
    """`[K]` bool: whether the token occurs anywhere in the partner of its sequence."""
    # A sequence number and a token id side by side in one int64: one set membership for all pairs. Not torch.isin, which asks
    # the device how many different ones there are.
    present = ((batch.target_sequence << 32) | batch.target_ids).sort().values
    wanted = (partner << 32) | batch.target_ids
    place = torch.searchsorted(present, wanted).clamp_max(batch.num_targets - 1)
    return present[place] == wanted
