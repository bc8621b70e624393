"""Statistics of every scored token, computed by an output head that never holds `[N, V]` logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.contracts.batches import sum_by_sequence

if TYPE_CHECKING:
    from lightning_modules.models.heads.tiled_divergence import Divergence


@dataclass(frozen=True, eq=False)
class TokenStats:
    """Statistics of the next-token distribution p at the K scored positions of a batch; y is the target token.

    float32 (float64 when the policy is float64). `logps`, `balance_loss` and the KL of `divergence` carry a gradient; the rest is
    detached.
    """

    logps: Tensor
    """`[K]` log p_y, nats, <= 0. Differentiable."""
    entropy: Tensor
    """`[K]` H = -sum_v p_v log p_v, nats, in [0, log V]."""
    sum_sq_probs: Tensor
    """`[K]` sum_v p_v^2, in [1/V, 1]."""
    top1_probs: Tensor
    """`[K]` max_v p_v, in [1/V, 1]."""
    is_top1: Tensor
    """`[K]` bool: whether y is the argmax."""
    target_sequence: Tensor
    """`[K]` int64: sequence of each position, in [0, Q)."""
    num_sequences: int
    """Q."""
    hidden: Tensor | None = None
    """`[K, H]` detached input of the output head, where the policy has one (head geometry and CHES read it)."""
    other_sq_probs: Tensor | None = None
    """`[K]` sum_{v != y} p_v^2, where the head sums it apart: `sum_sq_probs` - p_y^2 has no digits left where p_y is near 1."""

    divergence: Divergence | None = None
    """Of the reference's distribution q at each position, where the batch has the reference's states. Its KL(q || p) is
    differentiable."""
    balance_loss: Tensor | None = None
    """`[]` load-balancing loss of the batch times its coefficient, where the model is trained with one. Differentiable."""

    def sum_by_sequence(self) -> Tensor:
        """`[Q]` sequence log-probs: token log-probs summed over each completion (nats). Differentiable."""
        return sum_by_sequence(self.logps, self.target_sequence, self.num_sequences)


def softmax_gradient_l2(token_gradients: Tensor, stats: TokenStats, divergence_gradients: Tensor | None = None) -> Tensor:
    """L2 norm of dL/dlogits at each scored position: |g_t| sqrt(1 - 2 p_t + sum_v p_v^2).

    Exact for any loss that reads the model through `logps`, because dL/dz_t = g_t (onehot(y_t) - p_t) (paper App. B.1,
    generalised). Of a loss that reads KL(q || p) too, the norm of g_t (onehot(y_t) - p_t) + k_t (p_t - q_t).

    Args:
        token_gradients: `[K]` g_t = dL/dlogp_t.
        stats: statistics of the same positions.
        divergence_gradients: `[K]` k_t = dL/dKL_t, where the loss reads it.

    Returns:
        `[K]` norms, >= 0, in the unit of the loss per unit of logit.
    """
    logps = stats.logps.detach()
    own = torch.expm1(logps).square()
    # 1 - 2 p + sum p^2 cancels to nothing in float32 where p_t -> 1, as most tokens of a trained policy do. It is
    # (1 - p_t)^2 + sum_{v != t} p_v^2, and the second term lies between 0 and the first.
    others = stats.other_sq_probs
    if others is None:
        others = torch.minimum((stats.sum_sq_probs - logps.exp().square()).clamp_min(0), own)
    if divergence_gradients is None:
        return token_gradients.abs() * (own + others).sqrt()
    apart = stats.divergence
    assert apart is not None, "a gradient by the divergence has one"
    product = logps.exp() - apart.reference_logps.exp() - stats.sum_sq_probs + apart.overlap
    squares = token_gradients.square() * (own + others) + divergence_gradients.square() * apart.gap_squared(stats.sum_sq_probs)
    return (squares + 2 * token_gradients * divergence_gradients * product).clamp_min(0).sqrt()


def softmax_gradient_l1(token_gradients: Tensor, stats: TokenStats) -> Tensor:
    """L1 norm of dL/dlogits at each scored position: 2 |g_t| (1 - p_t), `[K]`."""
    return 2 * token_gradients.abs() * -torch.expm1(stats.logps.detach())
