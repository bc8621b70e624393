"""A cohort of the packed decoder: rows, their prompts, and every layer's keys and values.

Shape legend: P prompts of L tokens at the most, m rows a prompt at the most, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_modules.models.generation.decoders.decoder import Cohort
from lightning_modules.models.generation.decoders.kv_store import LayerStore, RowStore, SharedStore
from lightning_modules.models.generation.decoders.shared_prefix import RowLayout

_MANY_TOKENS = 2**17
"""Prompt tokens of all rows. Up to there a GPU reads them in less time than more calls take to launch (a layer with 2 KiB of keys
and values a token: 256 MiB, 0.1 ms)."""


class PackedCohort(Cohort):
    """Rows that share prompts.

    Args:
        lengths: tokens of each of the P prompts.
        copies: rows of each prompt.
        max_new_tokens: tokens a row may get.
        device: of the model.
    """

    def __init__(self, lengths: Sequence[int], copies: Sequence[int], max_new_tokens: int, device: torch.device) -> None:
        self.stores: dict[nn.Module, LayerStore] = {}
        self.num_own = 0
        self._lengths = list(lengths)
        self._max_new_tokens = max_new_tokens
        self._device = device
        # (prompt, place among the prompt's rows) of every row.
        self._cells = [(prompt, place) for prompt, count in enumerate(copies) for place in range(count)]
        self._shares = max(copies) > 1 and is_worth_sharing(sum(copies) * max(lengths), device)
        self._refresh()
        self._token_of = self._prompt_tokens()

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self._cells)

    @property
    def prompt_of_row(self) -> Tensor:
        """`[R]` int64."""
        return self.layout.cell // self.layout.width

    def positions(self) -> Tensor:
        """`[R]` int64 position of each row's next own token."""
        return self._row_lengths + self.num_own

    def store(self, layer: nn.Module, keys: Tensor, values: Tensor) -> None:
        """Keep a layer's `[sum of lengths, Hk, D]` keys and values of the prompts."""
        self.stores[layer] = (
            SharedStore(keys, values, self._token_of, self.num_rows, self._max_new_tokens)
            if self._shares
            else RowStore(keys, values, self._token_of, self._max_new_tokens)
        )

    @override
    def keep(self, rows: Sequence[int]) -> None:
        moves = [(new, old) for new, old in enumerate(rows) if new != old]
        holes, movers = (torch.tensor([move[side] for move in moves], dtype=torch.int64, device=self._device) for side in (0, 1))
        for store in self.stores.values():
            store.keep_rows(len(rows), holes, movers, self.num_own)
        self._cells = [self._cells[row] for row in rows]
        if self._shares:
            self._give_prompts_back()
        self._refresh()

    def _give_prompts_back(self) -> None:
        alive = sorted({prompt for prompt, _ in self._cells})
        # Copying the rest costs about as much as one step reads; at every halving it is negligible.
        if not alive or 2 * len(alive) > len(self._lengths):
            return
        self._lengths = [self._lengths[prompt] for prompt in alive]
        number = {prompt: new for new, prompt in enumerate(alive)}
        self._cells = [(number[prompt], place) for prompt, place in self._cells]
        prompts = torch.tensor(alive, device=self._device)
        for store in self.stores.values():
            store.keep_prompts(prompts, max(self._lengths))

    def _refresh(self) -> None:
        width = 1 + max((place for _, place in self._cells), default=0)
        cells = [prompt * width + place for prompt, place in self._cells]
        cell = torch.tensor(cells, dtype=torch.int64, device=self._device)
        lengths = torch.tensor(self._lengths, device=self._device)
        self._row_lengths = lengths[cell // width]
        longest = max(self._lengths)
        columns = torch.arange(longest, device=self._device)
        padding = (columns >= self._row_lengths[:, None])[:, None, None] if min(self._lengths) < longest else None
        is_full = cells == list(range(len(self._lengths) * width))
        self.layout = RowLayout(cell, len(self._lengths), width, is_full, padding, self._max_new_tokens)

    def _prompt_tokens(self) -> Tensor:
        """`[P, L]` int64, or `[R, L]` where each row holds its prompt: which token is in a column; the last one in the padding."""
        ends = torch.tensor(list(accumulate(self._lengths)), device=self._device)
        lengths = torch.tensor(self._lengths, device=self._device)
        columns = torch.arange(max(self._lengths), device=self._device)
        token_of = torch.minimum((ends - lengths)[:, None] + columns, ends[:, None] - 1)
        return token_of if self._shares else token_of.index_select(0, self.prompt_of_row)


def is_worth_sharing(num_tokens: int, device: torch.device) -> bool:
    """Whether prompts are better stored once for all their rows than once for each, which takes `num_tokens`."""
    # A CPU has no launches to save, and multiplies faster with a prompt's rows together.
    return device.type == "cpu" or num_tokens > _MANY_TOKENS
