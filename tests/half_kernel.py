"""A stand-in for FlashAttention: the numbers of attention, with the limits of half-precision kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightning_modules.models import causal_lm
from lightning_modules.models.attention_backends import per_segment
from lightning_modules.models.attention_backends.base import AttentionBackend, AttentionCase
from lightning_modules.models.attention_backends.per_segment import PER_SEGMENT
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.generation.choice import first_right
from lightning_modules.models.generation.decoders.decoder import Decoder
from lightning_modules.models.layers import layer_options
from lightning_modules.models.layers.segments import PackedSegments
from lightning_modules.models.scalars import scalar_model as scalar

HALVES = (torch.float16, torch.bfloat16)


class _Kernel(torch.autograd.Function):
    """Opaque to autograd and autocast, as a kernel is; computes in float32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, scaling: float) -> Tensor:
        """Output."""
        ctx.save_for_backward(query, key, value)
        ctx.options = segments, scaling
        return _attend(query, key, value, segments, scaling)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients."""
        query, key, value = leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            output = _attend(query, key, value, *ctx.options)
        return *torch.autograd.grad(output, leaves, upstream), None, None


def _attend(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, scaling: float) -> Tensor:
    with torch.autocast(query.device.type, enabled=False):
        exact = per_segment.attend(query.float(), key.float(), value.float(), segments, scaling=scaling, softcap=None)
        return exact.to(query.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, *, scaling: float, softcap: float | None) -> Tensor:
    """Attention, or the refusal of a kernel."""
    if softcap is not None or query.dtype not in HALVES or not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"expected one half-precision type and no soft-cap, got {query.dtype}, {key.dtype}, {value.dtype}")
    width = query.shape[-1]
    if width % 8 or width > 256 or query.stride(-1) != 1 or {segments.cu_q.dtype, segments.cu_k.dtype} != {torch.int32}:
        raise RuntimeError(f"expected a width of 8 to 256 and int32 lengths, got {width} and {segments.cu_q.dtype}")
    output: Tensor = _Kernel.apply(query, key, value, segments, scaling)  # type: ignore[no-untyped-call]
    return output


def _obstacle(case: AttentionCase) -> str | None:
    return None if case.dtype in HALVES else f"needs float16 or bfloat16, got {case.dtype}"


HALF_KERNEL = AttentionBackend("half kernel", attend, _obstacle)


@contextmanager
def half_kernel_is_there() -> Iterator[list[tuple[torch.dtype, str]]]:
    """Models built inside choose between the kernel and SDPA; yields (type, backend) of each choice as it is used.

    Left out are the self-tests of layout and decoder, which run in the type of the weights.
    """
    used: list[tuple[torch.dtype, str]] = []

    class Recorded(BackendSelector):
        def choose(self, case: AttentionCase) -> AttentionBackend:
            backend = super().choose(case)
            if self._announce:
                used.append((case.dtype, backend.name))
            return backend

    def unrecorded(model: PreTrainedModel, decoders: Sequence[Decoder[Any]]) -> int:
        before = len(used)
        number = first_right(model, decoders)
        del used[before:]
        return number

    two = partial(Recorded, backends=(HALF_KERNEL, PER_SEGMENT))
    with ExitStack() as stack:
        for module in (layer_options, scalar):
            stack.enter_context(patch.object(module, "BackendSelector", two))
        stack.enter_context(patch.object(causal_lm, "first_right", unrecorded))
        yield used
