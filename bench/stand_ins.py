"""The paths that a GPU takes, on a CPU, where calls can be counted: stand-ins of one operation each for kernels of a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from lightning_modules.models import causal_lm
from lightning_modules.models.attention_backends import selection
from lightning_modules.models.attention_backends.base import AttentionBackend
from lightning_modules.models.generation.batching import TOKENS_PER_READ, Batching
from lightning_modules.models.generation.decoders import decoder, packed_cohort
from lightning_modules.models.heads import head, tiled_log_probs
from lightning_modules.models.heads.tile_kernels import TileKernels, TileSums
from lightning_modules.models.heads.tiled_logits import DEVICE_TILE
from lightning_modules.models.layers import fused_norms
from lightning_modules.models.layers.segments import PackedSegments


class _WideProducts(TorchDispatchMode):
    """Half-precision products summed in float32, which the CPU has no kernel for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """The compiler works inside."""
        return True

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.mm.dtype_out:
            return kwargs["out"].copy_(args[0].float() @ args[1].float())
        if func is torch.ops.aten.addmm.dtype_out:
            return kwargs["out"].add_(args[1].float() @ args[2].float())
        return func(*args, **kwargs)


_NOTHING = {dtype: torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}


class _OneCall(torch.autograd.Function):
    """Attention as one operation in forward and one in backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401
        """A tensor of the output's shape."""
        ctx.shapes = [tensor.shape for tensor in (query, key, value)]
        return query.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        """Tensors of the inputs' shapes, the first counted. The others are finite: a step that is not is refused."""
        _, key, value = ctx.shapes
        nothing = _NOTHING[gradient.dtype]
        return gradient.clone(), nothing.expand(key), nothing.expand(value)


def _attend(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, **_: object) -> Tensor:
    rows = (tensor.index_select(0, segments.key_index) for tensor in (key, value))
    output: Tensor = _OneCall.apply(query, *rows)  # type: ignore[no-untyped-call]
    return output


_written_out = functional.rms_norm


@torch.library.custom_op("prefscope::rms_norm", mutates_args=())
def _one_norm(rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return _written_out(rows, weight.shape, weight, epsilon)


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN401
    return gradient.clone(), _NOTHING[ctx.dtype].expand(ctx.shape), None


def _note(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:  # noqa: ANN401
    ctx.shape, ctx.dtype = inputs[1].shape, inputs[1].dtype


_one_norm.register_autograd(_back, setup_context=_note)


def _rms_norm(rows: Tensor, _shape: Sequence[int], weight: Tensor, epsilon: float) -> Tensor:
    output: Tensor = _one_norm(rows, weight, epsilon)
    return output


def _update(logits: Tensor, column: Tensor, scratch: Tensor, sums: TileSums) -> tuple[Tensor, ...]:
    return (logits.sum(1), *sums[1:])


def _gradient(logits: Tensor, *arguments: Any) -> Tensor:  # noqa: ANN401
    return logits.to(arguments[-1])


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Stand-ins for kernels, and a GPU's choices."""
    backend = AttentionBackend("stand-in", _attend, lambda _: None)
    kernels = TileKernels("stand-in", _update, _gradient, needs_scratch=False)
    with ExitStack() as patches:
        patches.enter_context(patch.object(selection, "PER_SEGMENT", backend))
        patches.enter_context(patch.object(selection.BackendSelector.__init__, "__defaults__", ("auto", (backend,))))
        patches.enter_context(patch.object(head, "kernels_for", lambda _: kernels))
        patches.enter_context(patch.object(head, "CPU_TILE", DEVICE_TILE))
        patches.enter_context(patch.object(tiled_log_probs, "product_dtype", lambda *_: torch.bfloat16))
        # Stand-ins give other numbers, by which a decoder would seem wrong.
        patches.enter_context(patch.object(causal_lm, "first_right", lambda *_: 0))
        patches.enter_context(patch.object(fused_norms, "has_kernel", lambda _: True))
        patches.enter_context(patch.object(functional, "rms_norm", _rms_norm))
        patches.enter_context(patch.object(packed_cohort, "is_worth_sharing", lambda *_: False))
        patches.enter_context(patch.object(decoder, "batching_for", lambda *_: Batching(tokens_per_read=TOKENS_PER_READ)))
        patches.enter_context(_WideProducts())
        yield
