"""Losses of supervised tokens that trust the policy where it is sure: a deformed logarithm in place of -log p."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class TokenGate(ABC):
    """The loss of a supervised token. Its gradient by log p is -gate: 1 for plain likelihood. Subclasses are frozen dataclasses."""

    @abstractmethod
    def __call__(self, logps: Tensor, sum_sq_probs: Tensor) -> Tensor:
        """`[K]` losses.

        Args:
            logps: `[K]` log p of the targets, nats. Differentiable.
            sum_sq_probs: `[K]` sum_v p_v^2 of each distribution, without gradient.
        """


@dataclass(frozen=True, kw_only=True)
class Renyi2Gate(TokenGate):
    """(1 - p^a) / a with a = sum_v p_v^2 = exp(-H_2), H_2 the Renyi entropy of order 2; the gate is p^a.

    Where the policy is unsure (a -> 0) it is -log p, and every target is learned; where it is sure of another token (a -> 1,
    p -> 0) the target is left alone.

    Source: Wang et al., arXiv 2602.11424 (DEFT), and its authors' code.
    """

    def __call__(self, logps: Tensor, sum_sq_probs: Tensor) -> Tensor:
        """See TokenGate."""
        focus = sum_sq_probs.clamp_min(torch.finfo(sum_sq_probs.dtype).tiny)
        return -torch.expm1(focus * logps) / focus
