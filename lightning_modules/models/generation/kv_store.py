"""Keys and values of a cohort: each prompt's once, each row's own tokens in a buffer that grows.

Shape legend: P prompts of L tokens at the most, R rows, C columns (own tokens there is room for), Hk key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.models.generation.shared_prefix import KeyValues

_FIRST_COLUMNS = 32


class LayerStore:
    """One layer's keys and values.

    Args:
        prompt: `[P, Hk, L, D]`, zeros in the padding.
        num_rows: R.
    """

    def __init__(self, prompt: KeyValues, num_rows: int) -> None:
        self.prompt = prompt
        self._num_rows = num_rows
        self._own = KeyValues(*(self._room(tensor, _FIRST_COLUMNS) for tensor in prompt))

    def append(self, key: Tensor, value: Tensor, column: int) -> KeyValues:
        """Store `[R, Hk, D]` as own token number `column`; returns `[R, Hk, column + 1, D]`, all own tokens so far."""
        if column == self._own.keys.shape[2]:
            self._own = KeyValues(*(self._grown(tensor) for tensor in self._own))
        for buffer, new in zip(self._own, (key, value), strict=True):
            buffer[: self._num_rows, :, column] = new
        return KeyValues(*(buffer[: self._num_rows, :, : column + 1] for buffer in self._own))

    def keep_rows(self, count: int, holes: Tensor, movers: Tensor, num_columns: int) -> None:
        """The first `count` rows stay, with the rows `movers` moved into `holes`: only what moves is copied."""
        self._num_rows = count
        for buffer in self._own:
            buffer[holes, :, :num_columns] = buffer[movers, :, :num_columns]

    def keep_prompts(self, prompts: Tensor, length: int) -> None:
        """Only these prompts stay, cut to the longest of them; rows given up before are given back too."""
        self.prompt = KeyValues(*(tensor.index_select(0, prompts)[:, :, :length].contiguous() for tensor in self.prompt))
        self._own = KeyValues(*(buffer[: self._num_rows].clone() for buffer in self._own))

    def _room(self, like: Tensor, columns: int) -> Tensor:
        return like.new_empty(self._num_rows, like.shape[1], columns, like.shape[3])

    def _grown(self, buffer: Tensor) -> Tensor:
        columns = buffer.shape[2]
        larger = self._room(buffer, 2 * columns)
        larger[:, :, :columns] = buffer[: self._num_rows]
        return larger


def padded_prompts(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """`[P, Hk, L, D]`, zero-padded, from `[sum of lengths, Hk, D]`."""
    pieces = torch.split(rows, list(lengths))
    return torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True).transpose(1, 2).contiguous()
