"""FlashAttention 4 (package flash-attn-4, compiled on first use; backward on Hopper and newer). Only betas exist."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor

from lightning_modules.models.attention_backends.base import AttentionBackend, half_precision_on_cuda
from lightning_modules.models.layers.segments import PackedSegments


def attend(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, *, scaling: float, softcap: float | None) -> Tensor:
    """One varlen call with different query and key segments (see `Attend`)."""
    output: Tensor | tuple[Tensor, Tensor | None] = import_module("flash_attn.cute").flash_attn_varlen_func(
        query,
        key.index_select(0, segments.key_index),
        value.index_select(0, segments.key_index),
        cu_seqlens_q=segments.cu_q,
        cu_seqlens_k=segments.cu_k,
        max_seqlen_q=segments.max_query_length,
        max_seqlen_k=segments.max_key_length,
        softmax_scale=scaling,
        causal=True,
        softcap=softcap or 0.0,
    )
    # Some betas return the log-normalisers beside the output.
    return output[0] if isinstance(output, tuple) else output


FLASH_ATTENTION_4 = AttentionBackend(
    name="flash_attention_4",
    attend=attend,
    obstacle=half_precision_on_cuda,
    module="flash_attn.cute",
    install="pip install --pre flash-attn-4",
)
