"""The output head: log-probs and statistics of the scored tokens, tile by tile, so that `[K, V]` never exists.

Shape legend: K scored positions, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.models.heads.tile_gradients import HeadInputs
from lightning_modules.models.heads.tile_kernels import kernels_for
from lightning_modules.models.heads.tiled_divergence import Compared, Divergence, divergence
from lightning_modules.models.heads.tiled_log_probs import TiledLogProbs
from lightning_modules.models.heads.tiled_logits import CPU_TILE, DEVICE_TILE, LogitTransform


class HeadStats(NamedTuple):
    """Statistics of the next-token distribution p at K positions; y is the target.

    `logps` and the divergence's KL carry a gradient, the rest does not.
    """

    logps: Tensor
    """`[K]` log p_y (nats)."""
    entropy: Tensor
    """`[K]` -sum_v p_v log p_v (nats)."""
    sum_sq_probs: Tensor
    """`[K]` sum_v p_v^2."""
    top1_probs: Tensor
    """`[K]` max_v p_v."""
    is_top1: Tensor
    """`[K]` bool: whether y has the highest logit."""
    other_sq_probs: Tensor
    """`[K]` sum_{v != y} p_v^2, exact where p_y is near 1."""
    divergence: Divergence | None = None
    """Of the reference's distribution, where one is compared."""


class ScoringHead(nn.Linear):
    """A model's own output layer (same parameters, same names), which can also score targets without forming all logits.

    logits = cap(scale * (h W^T + b)) with cap(z) = softcap * tanh(z / softcap), each where the model has it.

    Without targets it is the linear layer it replaces, so that generation and the model's own forward work unchanged.
    """

    softcap: float | None
    scale: float

    @classmethod
    def adopt(cls, linear: nn.Linear, *, softcap: float | None = None, scale: float = 1.0) -> Self:
        """A scoring head that shares the parameters of `linear`."""
        head = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta", dtype=linear.weight.dtype)
        head.weight, head.bias = linear.weight, linear.bias
        head.softcap, head.scale = softcap, scale
        return head

    def forward(self, hidden: Tensor, target_ids: Tensor | None = None, compared: Compared | None = None) -> Tensor | HeadStats:  # type: ignore[override]
        """Score targets, or form plain logits.

        Args:
            hidden: `[K, H]` (any leading shape if there are no targets).
            target_ids: `[K]` int64 in [0, V), or None.
            compared: the reference's distribution at the same positions, whose KL is wanted.

        Returns:
            Statistics of the targets; `[..., V]` logits before scale and soft-cap if there are none.
        """
        if target_ids is None:
            return functional.linear(hidden, self.weight, self.bias)
        transform = LogitTransform(self.scale, self.softcap)
        tile = CPU_TILE if hidden.device.type == "cpu" else DEVICE_TILE
        kernels = kernels_for(hidden.device.type)
        found = TiledLogProbs.apply(hidden, self.weight, self.bias, target_ids, transform, tile, kernels)  # type: ignore[no-untyped-call]
        apart = None if compared is None else divergence(HeadInputs(hidden, self.weight, self.bias), transform, compared)
        return HeadStats(*found)._replace(divergence=apart)
