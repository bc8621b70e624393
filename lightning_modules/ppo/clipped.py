"""PPO's two losses, per token and unreduced (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ClippedLoss(NamedTuple):
    """Per-token losses, and where the clipping decided."""

    losses: Tensor
    """`[K]`, differentiable."""
    clipped: Tensor
    """`[K]` bool: the clipped branch is the larger loss, so that the token has no gradient."""


def clipped_policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, *, clip_range: float = 0.2) -> ClippedLoss:
    """L_t = max(-A_t r_t, -A_t clip(r_t, 1 - eps, 1 + eps)) with r_t = exp(log pi - log pi_old) (Eq. 7).

    Args:
        logps: `[K]` log pi(y_t) under the policy (nats), differentiable.
        old_logps: `[K]` the same under the policy that sampled (nats).
        advantages: `[K]` A_t, without gradient.
        clip_range: eps, in (0, 1).

    Returns:
        Losses and which of them were clipped.
    """
    _require_same_shape(logps=logps, old_logps=old_logps, advantages=advantages)
    ratios = (logps - old_logps).exp()
    free = -advantages * ratios
    bounded = -advantages * ratios.clamp(1 - clip_range, 1 + clip_range)
    return ClippedLoss(torch.maximum(free, bounded), (bounded > free).detach())


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float = 0.2) -> ClippedLoss:
    """L_t = 1/2 max((V_t - R_t)^2, (clip(V_t, V_old - eps, V_old + eps) - R_t)^2), as in OpenAI's baselines.

    Args:
        values: `[K]` V_t of the critic, differentiable, in units of reward.
        old_values: `[K]` V_t when the completion was sampled.
        returns: `[K]` R_t, the targets.
        clip_range: eps > 0, in units of reward.

    Returns:
        Losses and which of them were clipped.
    """
    _require_same_shape(values=values, old_values=old_values, returns=returns)
    free = (values - returns).square()
    # Not old + clamp(V - old), which differs from V in the last bit where nothing is clipped, and counts as clipped.
    bounded = (values.clamp(old_values - clip_range, old_values + clip_range) - returns).square()
    return ClippedLoss(0.5 * torch.maximum(free, bounded), (bounded > free).detach())


def _require_same_shape(**tensors: Tensor) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if len({tuple(shape) for shape in shapes.values()}) != 1:
        raise ValueError(f"expected one value per token in each argument, got shapes {shapes}. Flatten them alike.")
