"""Gradients of a head's inputs, summed tile by tile from those at its logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.models.heads.tiled_logits import ColumnTile, TiledLogits, multiply


class HeadInputs(NamedTuple):
    """The inputs of a head that a gradient may be asked for."""

    hidden: Tensor
    """`[K, H]`."""
    weight: Tensor
    """`[V, H]`."""
    bias: Tensor | None
    """`[V]`."""


class TileGradients:
    """Sums of the gradients over tiles, in the type of the sums, for the inputs that need one.

    Args:
        inputs: as they were given.
        needs: which of them need a gradient, in their order.
        logits: that are formed of them.
    """

    def __init__(self, inputs: HeadInputs, needs: tuple[bool, ...], logits: TiledLogits) -> None:
        self._inputs = inputs
        needs_hidden, needs_weight, needs_bias = needs
        self._hidden_rows, self._sum_dtype = logits.hidden, logits.sum_dtype
        self._hidden = torch.zeros_like(logits.hidden, dtype=self._sum_dtype) if needs_hidden else None
        self._weight = torch.empty_like(inputs.weight) if needs_weight else None
        self._bias = torch.empty_like(inputs.bias) if needs_bias and inputs.bias is not None else None

    def start(self, tile: ColumnTile) -> None:
        """Begin a column tile: its share of the weight and bias gradients."""
        if self._weight is not None:
            share = self._weight[tile.columns]
            # Summed where it is wanted, unless the parameters' type would round the sums of several row slices.
            self._weight_tile = share if share.dtype == self._sum_dtype else torch.empty_like(share, dtype=self._sum_dtype)
        if self._bias is not None:
            self._bias_tile = self._bias.new_zeros(len(tile.weight), dtype=self._sum_dtype)

    def add(self, rows: slice, tile: ColumnTile, gradient: Tensor) -> None:
        """Take in the gradient at a tile's logits, in the type in which products take it."""
        if self._hidden is not None:
            multiply(gradient, tile.weight, self._hidden[rows], accumulate=True)
        if self._weight is not None:
            multiply(gradient.T, self._hidden_rows[rows], self._weight_tile, accumulate=rows.start > 0)
        if self._bias is not None:
            self._bias_tile += gradient.sum(0)

    def finish(self, tile: ColumnTile) -> None:
        """End a column tile: its sums are complete and may be rounded to the type of the parameters."""
        if self._weight is not None and self._weight.dtype != self._sum_dtype:
            self._weight[tile.columns] = self._weight_tile
        if self._bias is not None:
            self._bias[tile.columns] = self._bias_tile

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """One for each of the inputs."""
        hidden = None if self._hidden is None else self._hidden.to(self._inputs.hidden.dtype)
        return hidden, self._weight, self._bias
