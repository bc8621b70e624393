"""The KL penalty per token, with a fixed or an adaptive coefficient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lightning_modules.ppo.kl import k1, k3

ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k3": k3}


@dataclass(frozen=True)
class KLPenalty:
    """Token t costs coefficient * kl_t, kl_t an estimate of KL(pi || pi0) from the sampled token (lightning_modules/ppo/kl.py).

    With a `target` the coefficient follows Ziegler et al. 2019 (arXiv 1909.08593, Sec. 2.2), once a rollout of n completions:
        c <- c (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon), KL in nats a completion.

    Raises:
        ValueError: if a value is out of its range.
    """

    coefficient: float = 0.05
    """Reward per nat, >= 0; of the first rollout if there is a target."""
    estimator: Literal["k1", "k3"] = "k1"
    """`k1`: unbiased, of either sign. `k3`: unbiased as a value and >= 0, but its sum is not the log-ratio of the completion."""
    target: float | None = None
    """Nats a completion to steer towards, > 0; null keeps the coefficient."""
    horizon: int = 10000
    """Completions over which the coefficient moves, >= 1."""

    def __post_init__(self) -> None:
        target = 1 if self.target is None else self.target
        numbers_fit = 0 <= self.coefficient < math.inf and 0 < target < math.inf and self.horizon >= 1
        if not numbers_fit or self.estimator not in ESTIMATORS:
            raise ValueError(
                f"expected a finite coefficient >= 0, estimator k1 or k3, target > 0 or null and horizon >= 1, got "
                f"{self.coefficient}, {self.estimator!r}, {self.target} and {self.horizon}."
            )

    def per_token(self, logps: Tensor, reference_logps: Tensor) -> Tensor:
        """`[K]` estimates of the KL, nats, before the coefficient."""
        return ESTIMATORS[self.estimator](logps, reference_logps)

    def updated(self, coefficient: float, kl: float, num_completions: int) -> float:
        """The next rollout's coefficient.

        Args:
            coefficient: of this rollout.
            kl: its mean KL a completion, nats.
            num_completions: in this rollout.
        """
        if self.target is None:
            return coefficient
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coefficient * (1 + error * num_completions / self.horizon)
