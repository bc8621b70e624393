"""Attention of new tokens to their prompt, which all rows of the prompt share, and to their own row.

The products with the prompt are taken for all rows of a prompt at once, so that its keys and values are read once a step
(Hydragen, arXiv 2402.05099); one softmax runs over both parts.

Shape legend: P prompts of L tokens at the most, m rows a prompt at the most, R rows, t own tokens, Hq query heads, Hk key/value
heads, G = Hq / Hk, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

_ALIGNMENT = 8
"""Numbers: CUDA's kernels copy a mask whose rows do not start at multiples of it."""


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Which prompt each row belongs to, as a place in a grid of P prompts by m rows."""

    cell: Tensor
    """`[R]` int64: prompt * m + place."""
    num_prompts: int
    width: int
    """m."""
    is_full: bool
    """Whether row i is in cell i and no cell is empty."""
    padding: Tensor | None
    """`[R, 1, 1, L]` bool: True on prompt columns that the row does not have; None where all prompts have L tokens."""
    max_own: int
    """Own tokens of a row at the most."""
    _biases: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def bias(self, dtype: torch.dtype, columns: int) -> Tensor | None:
        """`[R, 1, 1, columns]`: -inf in the padding, 0 elsewhere; None where there is no padding. Made once for all layers."""
        if self.padding is None:
            return None
        if dtype not in self._biases:
            length = self.padding.shape[-1]
            room = -(length + self.max_own) % _ALIGNMENT + length + self.max_own
            bias = torch.zeros(len(self.padding), 1, 1, room, dtype=dtype, device=self.padding.device)
            bias[..., :length].masked_fill_(self.padding, -torch.inf)
            self._biases[dtype] = bias
        return self._biases[dtype][..., :columns]

    def to_grid(self, rows: Tensor) -> Tensor:
        """`[R, Hk, G, X]` as `[P, Hk, m * G, X]`, zeros in empty cells."""
        grid = rows
        if not self.is_full:
            grid = rows.new_zeros(self.num_prompts * self.width, *rows.shape[1:]).index_copy_(0, self.cell, rows)
        return grid.reshape(self.num_prompts, self.width, *rows.shape[1:]).transpose(1, 2).flatten(2, 3)

    def from_grid(self, grid: Tensor) -> Tensor:
        """The inverse of `to_grid`."""
        cells = grid.reshape(self.num_prompts, grid.shape[1], self.width, -1, grid.shape[-1]).transpose(1, 2).flatten(0, 1)
        return cells if self.is_full else cells.index_select(0, self.cell)


class KeyValues(NamedTuple):
    """Keys and values, each `[..., Hk, tokens, D]`."""

    keys: Tensor
    values: Tensor


def attend(query: Tensor, prompt: KeyValues, own: KeyValues, layout: RowLayout, *, scaling: float, softcap: float | None) -> Tensor:
    """Softmax attention over prompt and own tokens.

    Args:
        query: `[R, Hq, D]`.
        prompt: `[P, Hk, L, D]`, finite also in the padding.
        own: `[R, Hk, t, D]`, the new token included.
        layout: rows and their prompts.
        scaling: factor on the scores.
        softcap: scores are capped as softcap * tanh(score / softcap), or None.

    Returns:
        `[R, Hq, D]`.
    """
    num_heads, width = prompt.keys.shape[1], prompt.keys.shape[2]
    query = (query * scaling).reshape(len(query), num_heads, -1, query.shape[-1])
    to_prompt = layout.from_grid(layout.to_grid(query) @ prompt.keys.transpose(-1, -2))
    weights = masked_softmax(torch.cat([to_prompt, query @ own.keys.transpose(-1, -2)], dim=-1), layout.padding, softcap)
    output = layout.from_grid(layout.to_grid(weights[..., :width]) @ prompt.values) + weights[..., width:] @ own.values
    return output.flatten(1, 2)


def masked_softmax(scores: Tensor, padding: Tensor | None, softcap: float | None) -> Tensor:
    """Weights of `[R, Hk, G, X]` scores, which are overwritten; the first columns are masked by `padding`, `[R, 1, 1, L]`."""
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if padding is not None:
        scores[..., : padding.shape[-1]].masked_fill_(padding, -torch.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
