"""Differentiable log-probs of targets from hidden states, recomputing the logits of a few rows at a time in backward.

z = cap(scale * (h W^T + b)), log p_y = z_y - logsumexp(z). Backward of g = dL/dlog p_y at the logits: g (onehot(y) - p), then
through cap (1 - (z/softcap)^2) and scale. Four matrix products in all, none larger than `[R, V]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 1 << 24
"""Bytes of one chunk's logits."""


class LogitTransform(NamedTuple):
    """What a model does to its logits after the linear layer."""

    scale: float = 1.0
    """Factor (Cohere multiplies, Granite divides)."""
    softcap: float | None = None
    """Soft-cap c: z -> c tanh(z / c) (Gemma 2, arXiv 2408.00118)."""


class _Context(Protocol):
    """What autograd keeps between forward and backward."""

    transform: LogitTransform
    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


class ChunkedLogProbs(torch.autograd.Function):
    """(hidden `[K, H]`, weight `[V, H]`, bias `[V]` or None, target_ids `[K]`, transform) -> the fields of `HeadStats`.

    Sums and probabilities are float32 whatever the inputs are (float64 for float64 inputs).
    """

    @staticmethod
    def forward(
        ctx: _Context, hidden: Tensor, weight: Tensor, bias: Tensor | None, target_ids: Tensor, transform: LogitTransform
    ) -> tuple[Tensor, ...]:
        """Statistics; keeps the inputs and `[K]` log-normalisers."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _ChunkLogits(hidden, weight, bias, transform)
            stats = [logits.hidden.new_empty(len(target_ids)) for _ in range(5)]
            is_top1 = torch.empty_like(target_ids, dtype=torch.bool)
            for rows in logits.chunks():
                *values, top = _chunk_stats(logits.of(rows), target_ids[rows])
                is_top1[rows] = top
                for total, value in zip(stats, values, strict=True):
                    total[rows] = value
        logps, entropy, sum_sq_probs, top1_probs, log_normaliser = stats
        ctx.save_for_backward(hidden, weight, bias, target_ids, log_normaliser)
        ctx.transform = transform
        ctx.mark_non_differentiable(entropy, sum_sq_probs, top1_probs, is_top1)
        return logps, entropy, sum_sq_probs, top1_probs, is_top1

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_logps: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the inputs that need one."""
        hidden, weight, bias, target_ids, log_normaliser = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _ChunkLogits(hidden, weight, bias, ctx.transform)
            grad_hidden = torch.empty_like(logits.hidden) if needs_hidden else None
            grad_weight = torch.zeros_like(logits.weight) if needs_weight else None
            grad_bias = logits.weight.new_zeros(len(weight)) if needs_bias else None
            for rows in logits.chunks():
                grad = logits.gradient(rows, grad_logps[rows], target_ids[rows], log_normaliser[rows])
                if grad_hidden is not None:
                    torch.mm(grad, logits.weight, out=grad_hidden[rows])
                if grad_weight is not None:
                    grad_weight.addmm_(grad.T, logits.hidden[rows])
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
        return _cast(grad_hidden, hidden), _cast(grad_weight, weight), _cast(grad_bias, weight), None, None


class _ChunkLogits:
    """Logits of one chunk of rows after another, in one reused buffer."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform) -> None:
        dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
        self.hidden, self.weight = hidden.to(dtype), weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)
        self.transform = transform
        self.rows = max(1, CHUNK_BYTES // (len(weight) * dtype.itemsize))
        self.buffer = self.hidden.new_empty(min(self.rows, len(hidden)), len(weight))

    def chunks(self) -> Iterator[slice]:
        total = len(self.hidden)
        return (slice(start, min(start + self.rows, total)) for start in range(0, total, self.rows))

    def of(self, rows: slice) -> Tensor:
        out = self.buffer[: rows.stop - rows.start]
        torch.mm(self.hidden[rows], self.weight.T, out=out)
        if self.bias is not None:
            out += self.bias
        if self.transform.scale != 1.0:
            out *= self.transform.scale
        if self.transform.softcap is not None:
            out.div_(self.transform.softcap).tanh_().mul_(self.transform.softcap)
        return out

    def gradient(self, rows: slice, grad_logps: Tensor, target_ids: Tensor, log_normaliser: Tensor) -> Tensor:
        """`[R, V]` gradient at the output of the linear layer."""
        logits = self.of(rows)
        softcap = self.transform.softcap
        slope = None if softcap is None else 1 - (logits / softcap).square()
        grad = logits.sub_(log_normaliser[:, None]).exp_().mul_(-grad_logps[:, None])
        grad.scatter_add_(1, target_ids[:, None], grad_logps[:, None])
        if slope is not None:
            grad *= slope
        if self.transform.scale != 1.0:
            grad *= self.transform.scale
        return grad


def _chunk_stats(logits: Tensor, target_ids: Tensor) -> tuple[Tensor, ...]:
    """logps, entropy, sum p^2, top-1 probability, log-normaliser, is-top-1 of one chunk; destroys `logits`."""
    top = logits.amax(1)
    target = logits.gather(1, target_ids[:, None]).squeeze(1)
    shifted = logits.sub_(top[:, None])
    exps = shifted.exp()
    normaliser = exps.sum(1)
    log_sum = normaliser.log()
    # H = log Z - E[z], with z counted from its maximum; -inf * 0 cannot occur as logits are finite.
    entropy = (log_sum - torch.linalg.vecdot(exps, shifted) / normaliser).clamp_min(0)
    sum_sq_probs = torch.linalg.vecdot(exps, exps) / normaliser.square()
    log_normaliser = top + log_sum
    return target - log_normaliser, entropy, sum_sq_probs, normaliser.reciprocal(), log_normaliser, target >= top


def _cast(grad: Tensor | None, like: Tensor) -> Tensor | None:
    return None if grad is None else grad.to(like.dtype)
