"""Convex functions of a margin, the choice that GPO and BPO leave open (Tang et al., arXiv 2402.05749)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.linear_tail import exp_linear_tail


class ConvexFunction(ABC):
    """A convex f with f'(0) < 0, so that a pair at margin 0 pulls the margin up."""

    @abstractmethod
    def __call__(self, margins: Tensor) -> Tensor:
        """`[pairs]` f(margin), elementwise, dtype kept, finite for |margin| up to 1e4."""


@dataclass(frozen=True)
class Logistic(ConvexFunction):
    """f(m) = -logsig(m): DPO. Never saturates to zero pull."""

    def __call__(self, margins: Tensor) -> Tensor:
        """`[pairs]`, > 0."""
        return -F.logsigmoid(margins)


@dataclass(frozen=True)
class Square(ConvexFunction):
    """f(m) = (1 - m)^2: IPO. Pushes a margin above 1 back down."""

    def __call__(self, margins: Tensor) -> Tensor:
        """`[pairs]`, >= 0."""
        return (1 - margins).square()


@dataclass(frozen=True)
class Hinge(ConvexFunction):
    """f(m) = max(0, 1 - m): SLiC. No gradient at all once the margin is above 1."""

    def __call__(self, margins: Tensor) -> Tensor:
        """`[pairs]`, >= 0."""
        return torch.relu(1 - margins)


@dataclass(frozen=True)
class Exponential(ConvexFunction):
    """f(m) = exp(-m): AdaBoost's loss. Badly ordered pairs dominate the batch.

    Differs from the source: linear below m = -60, where the exponential would overflow float32.
    """

    def __call__(self, margins: Tensor) -> Tensor:
        """`[pairs]`, > 0."""
        return exp_linear_tail(-margins)
