"""The last layer of a policy, with which diagnostics compute a few logits from hidden states that training keeps.

Shape legend: K scored positions, H hidden width, V vocabulary; n columns and r rows of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from lightning_modules.models.heads.tiled_logits import LogitTransform, multiply, product_dtype


class OutputHead(ABC):
    """Logits z of some vocabulary columns; valid where the policy's `forward` is, no gradient."""

    @property
    @abstractmethod
    def num_columns(self) -> int:
        """n, V for a whole head."""

    @abstractmethod
    def columns(self, token_ids: Tensor) -> Self:
        """The head of the tokens `[n]` alone."""

    @abstractmethod
    def logits(self, hidden: Tensor, rows: slice | Tensor) -> Tensor:
        """`[r, n]` logits of the scored positions `rows`, from their hidden states `[r, H]`."""

    @abstractmethod
    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the logits by the output W h of the linear layer."""


@dataclass(frozen=True, eq=False)
class LinearHead(OutputHead):
    """z = cap(scale * (h W^T + b)), one layer for all positions."""

    weight: Tensor
    """`[n, H]`."""
    bias: Tensor | None
    """`[n]`."""
    transform: LogitTransform = LogitTransform()  # noqa: RUF009 - a NamedTuple is immutable

    @property
    @override
    def num_columns(self) -> int:
        return len(self.weight)

    @override
    def columns(self, token_ids: Tensor) -> Self:
        return replace(self, weight=self.weight[token_ids], bias=None if self.bias is None else self.bias[token_ids])

    @override
    def logits(self, hidden: Tensor, rows: slice | Tensor) -> Tensor:
        # Products in the type in which training takes them.
        dtype = product_dtype(hidden, self.weight)
        logits = hidden.new_empty(len(hidden), self.num_columns, dtype=torch.promote_types(dtype, torch.float32))
        with torch.autocast(hidden.device.type, enabled=False):
            multiply(hidden.to(dtype), self.weight.to(dtype).T, logits)
        if self.bias is not None:
            logits += self.bias
        logits *= self.transform.scale
        cap = self.transform.softcap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    @override
    def slope(self, logits: Tensor) -> Tensor | float:
        scale, cap = self.transform
        return scale if cap is None else scale * (1 - (logits / cap).square())


@dataclass(frozen=True, eq=False)
class ReplicatedHead(OutputHead):
    """z = h W_s + b_s: a layer for each of S replicas that stand side by side (the toy's seeds)."""

    weight: Tensor
    """`[S, H, n]`."""
    bias: Tensor
    """`[S, n]`."""
    replica: Tensor
    """`[K]` int64: replica of each scored position."""

    @property
    @override
    def num_columns(self) -> int:
        return self.bias.shape[1]

    @override
    def columns(self, token_ids: Tensor) -> Self:
        return replace(self, weight=self.weight[:, :, token_ids], bias=self.bias[:, token_ids])

    @override
    def logits(self, hidden: Tensor, rows: slice | Tensor) -> Tensor:
        weight, bias = self.weight[self.replica[rows]], self.bias[self.replica[rows]]
        dtype = torch.promote_types(hidden.dtype, torch.promote_types(weight.dtype, torch.float32))
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.einsum("rh,rhn->rn", hidden.to(dtype), weight.to(dtype)) + bias.to(dtype)

    @override
    def slope(self, logits: Tensor) -> float:
        """1: nothing follows the layer."""
        return 1.0
