"""f-divergences as f-DPO needs them: the reward u(h) = f'(pi/pi0) as a function of h = log(pi/pi0) (arXiv 2309.16240).

All are shifted by a constant so that u(0) = 0, and scaled so that u'(0) = 1 (JS: 1/2).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.checks import require
from lightning_modules.losses.linear_tail import expm1_linear_tail


class Divergence(ABC):
    """The penalty D_f(pi, pi0) that replaces the reverse KL in the objective behind DPO (paper Eq. 4)."""

    @abstractmethod
    def reward(self, logratios: Tensor) -> Tensor:
        """`[pairs]` u(h), increasing in h, dtype kept, finite for |h| up to 1e4."""


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """u(h) = h: plain DPO."""

    def reward(self, logratios: Tensor) -> Tensor:
        """`[pairs]` in nats."""
        return logratios


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """u(h) = 1 - exp(-h): mass covering; a completion that loses likelihood is pulled back exponentially hard.

    Differs from the source: linear below h = -60, where the exponential would overflow float32.
    """

    def reward(self, logratios: Tensor) -> Tensor:
        """`[pairs]`, < 1."""
        return -expm1_linear_tail(-logratios)


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """u(h) = log 2 + logsig(h): reverse KL for lost likelihood, bounded by log 2 for gained likelihood."""

    def reward(self, logratios: Tensor) -> Tensor:
        """`[pairs]`, < log 2."""
        return math.log(2) + F.logsigmoid(logratios)


@dataclass(frozen=True, kw_only=True)
class Alpha(Divergence):
    """u(h) = (1 - exp(-alpha h)) / alpha: between reverse KL (alpha -> 0) and forward KL (alpha -> 1).

    Differs from the source: linear below alpha h = -60. TRL's `f_alpha_divergence_coef` is 1 - alpha.
    """

    alpha: float = 0.5
    """Order, in (0, 1), no unit. Nearer 1 covers mass more and punishes lost likelihood harder."""

    def __post_init__(self) -> None:
        require(0 < self.alpha < 1, "alpha in (0, 1)", self.alpha)

    def reward(self, logratios: Tensor) -> Tensor:
        """`[pairs]`, < 1 / alpha."""
        return -expm1_linear_tail(-self.alpha * logratios) / self.alpha
