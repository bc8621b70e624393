"""Exponentials that turn linear before they overflow, with a gradient that never vanishes nor becomes infinite."""

from __future__ import annotations

import torch
from torch import Tensor

# exp(60) = 1.1e26: times a log-ratio of 1e4 it still fits float32, and no run that has not already diverged gets here.
_LARGEST_EXPONENT = 60.0


def exp_linear_tail(x: Tensor) -> Tensor:
    """exp(x) up to x = 60, its tangent beyond: same shape and dtype, finite with a finite gradient, monotone and convex."""
    capped = x.clamp(max=_LARGEST_EXPONENT)
    return capped.exp() * (1 + (x - capped))


def expm1_linear_tail(x: Tensor) -> Tensor:
    """exp(x) - 1 up to x = 60, its tangent beyond, exact to the last digits near x = 0."""
    capped = x.clamp(max=_LARGEST_EXPONENT)
    return torch.expm1(capped) + capped.exp() * (x - capped)
