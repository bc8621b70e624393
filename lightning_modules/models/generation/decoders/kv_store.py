"""Keys and values of one layer for the rows of a cohort.

Shape legend: P prompts of L tokens at the most, R rows, t own tokens of a row, T of them at the most, Hq query heads, Hk key/value
heads, G = Hq / Hk, D head width, N prompt tokens in all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from lightning_modules.models.generation.decoders.shared_prefix import KeyValues, RowLayout, attend, masked_softmax


class LayerStore(ABC):
    """What a layer's rows attend to."""

    @abstractmethod
    def attend(
        self, query: Tensor, new: KeyValues, num_own: int, layout: RowLayout, scaling: float, softcap: float | None
    ) -> Tensor:
        """Store a token of every row, and attend to all that the row has.

        Args:
            query: `[R, Hq, D]`, of any type.
            new: `[R, Hk, D]`, of any type.
            num_own: tokens of their own that rows have already.
            layout: rows and their prompts.
            scaling: factor on the scores.
            softcap: of the scores, or None.

        Returns:
            `[R, Hq, D]` in the type of the prompts' values.
        """

    @abstractmethod
    def keep_rows(self, count: int, holes: Tensor, movers: Tensor, num_own: int) -> None:
        """The first `count` rows stay, with the rows `movers` moved into `holes`: little is copied."""

    @abstractmethod
    def keep_prompts(self, prompts: Tensor, length: int) -> None:
        """Only these prompts have rows left, the longest of `length` tokens."""


class SharedStore(LayerStore):
    """Each prompt's once, for all of its rows, and each row's own tokens: least memory, and least to read.

    Args:
        keys: `[N, Hk, D]` of the prompts' tokens.
        values: the same.
        token_of: `[P, L]` int64, which of them stands in each prompt's column; any in the padding.
        num_rows: R.
        max_own: T.
    """

    def __init__(self, keys: Tensor, values: Tensor, token_of: Tensor, num_rows: int, max_own: int) -> None:
        self._prompt = KeyValues(*(_in_columns(tensor, token_of).contiguous() for tensor in (keys, values)))
        self._own = KeyValues(*(tensor.new_empty(num_rows, tensor.shape[1], max_own, tensor.shape[2]) for tensor in (keys, values)))

    @override
    def attend(
        self, query: Tensor, new: KeyValues, num_own: int, layout: RowLayout, scaling: float, softcap: float | None
    ) -> Tensor:
        own = _appended(self._own, new, num_own)
        return attend(query.to(own.keys.dtype), self._prompt, own, layout, scaling=scaling, softcap=softcap)

    @override
    def keep_rows(self, count: int, holes: Tensor, movers: Tensor, num_own: int) -> None:
        self._own = _kept(self._own, count, holes, movers, num_own)

    @override
    def keep_prompts(self, prompts: Tensor, length: int) -> None:
        self._prompt = KeyValues(*(tensor.index_select(0, prompts)[:, :, :length].contiguous() for tensor in self._prompt))


class RowStore(LayerStore):
    """Each row's prompt and own tokens in one buffer: one call attends to all of it.

    Args:
        keys: `[N, Hk, D]` of the prompts' tokens.
        values: the same.
        token_of: `[R, L]` int64, which of them stands in each row's column; any in the padding.
        max_own: T.
    """

    def __init__(self, keys: Tensor, values: Tensor, token_of: Tensor, max_own: int) -> None:
        num_rows, self._length = token_of.shape
        shape = (num_rows, keys.shape[1], self._length + max_own)
        self._buffers = KeyValues(*(tensor.new_empty(*shape, tensor.shape[2]) for tensor in (keys, values)))
        for buffer, tensor in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, : self._length] = _in_columns(tensor, token_of)

    @override
    def attend(
        self, query: Tensor, new: KeyValues, num_own: int, layout: RowLayout, scaling: float, softcap: float | None
    ) -> Tensor:
        keys, values = _appended(self._buffers, new, self._length + num_own)
        # The query heads of a key/value head as so many queries: nothing is expanded.
        grouped = query.to(keys.dtype).unflatten(1, (keys.shape[1], -1))
        if softcap is None:
            bias = layout.bias(keys.dtype, keys.shape[2])
            return functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias, scale=scaling).flatten(1, 2)
        weights = masked_softmax(grouped * scaling @ keys.transpose(-1, -2), layout.padding, softcap)
        return (weights @ values).flatten(1, 2)

    @override
    def keep_rows(self, count: int, holes: Tensor, movers: Tensor, num_own: int) -> None:
        self._buffers = _kept(self._buffers, count, holes, movers, self._length + num_own)

    @override
    def keep_prompts(self, prompts: Tensor, length: int) -> None:
        """Prompts leave with their rows."""


def _in_columns(tokens: Tensor, token_of: Tensor) -> Tensor:
    """`[rows, Hk, L, D]` from `[N, Hk, D]`."""
    return tokens.index_select(0, token_of.flatten()).view(*token_of.shape, *tokens.shape[1:]).transpose(1, 2)


def _appended(buffers: KeyValues, new: KeyValues, column: int) -> KeyValues:
    """What the rows of `new` hold, the new token in its column included."""
    num_rows = len(new.keys)
    for buffer, token in zip(buffers, new, strict=True):
        buffer[:num_rows, :, column] = token
    return KeyValues(*(buffer[:num_rows, :, : column + 1] for buffer in buffers))


def _kept(buffers: KeyValues, count: int, holes: Tensor, movers: Tensor, num_columns: int) -> KeyValues:
    """The buffers with rows moved; smaller ones once half of the rows have left."""
    for buffer in buffers:
        buffer[holes, :, :num_columns] = buffer[movers, :, :num_columns]
    if 2 * count > len(buffers.keys):
        return buffers
    return KeyValues(*(_shrunk(buffer, count, num_columns) for buffer in buffers))


def _shrunk(buffer: Tensor, count: int, num_columns: int) -> Tensor:
    smaller = torch.empty_like(buffer[:count])
    smaller[:, :, :num_columns] = buffer[:count, :, :num_columns]
    return smaller
