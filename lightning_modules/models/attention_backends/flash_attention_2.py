"""FlashAttention 2 (package flash-attn, compiled on installation; Ampere and newer)."""

from __future__ import annotations

from importlib import import_module

from torch import Tensor

from lightning_modules.models.attention_backends.base import AttentionBackend, half_precision_on_cuda
from lightning_modules.models.layers.segments import PackedSegments


def attend(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, *, scaling: float, softcap: float | None) -> Tensor:
    """One varlen call with different query and key segments (see `Attend`); causal at the bottom right since 2.1."""
    output: Tensor = import_module("flash_attn").flash_attn_varlen_func(
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
    return output


FLASH_ATTENTION_2 = AttentionBackend(
    name="flash_attention_2",
    attend=attend,
    obstacle=half_precision_on_cuda,
    module="flash_attn.flash_attn_interface",
    install="pip install --no-build-isolation 'flash-attn>=2.8,<3'",
)
