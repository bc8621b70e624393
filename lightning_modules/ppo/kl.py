"""Estimates of KL(pi || pi0) from tokens sampled from pi (J. Schulman, "Approximating KL Divergence", 2020)."""

from __future__ import annotations

from torch import Tensor


def k1(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """The log-ratio log pi - log pi0, `[K]` nats: unbiased, of either sign, high variance."""
    return logps - reference_logps


def k2(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """1/2 (log pi - log pi0)^2, `[K]` nats^2: >= 0, biased, low variance; its gradient is that of the KL."""
    return 0.5 * (logps - reference_logps).square()


def k3(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """pi0/pi - 1 - log(pi0/pi), `[K]` nats: unbiased, >= 0."""
    log_ratio = reference_logps - logps
    return log_ratio.expm1() - log_ratio
