"""PyTorch's own FlashAttention over variable lengths (torch >= 2.10, Ampere and newer)."""

from __future__ import annotations

from importlib import import_module
from inspect import signature

from torch import Tensor

from lightning_modules.models.attention_backends.base import AttentionBackend, AttentionCase, half_precision_on_cuda
from lightning_modules.models.layers.segments import PackedSegments


def attend(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, *, scaling: float, softcap: float | None) -> Tensor:
    """One varlen call with different query and key segments (see `Attend`); no soft-cap."""
    assert softcap is None, "a case with a soft-cap is an obstacle"
    varlen_attn = import_module("torch.nn.attention.varlen").varlen_attn
    known = signature(varlen_attn).parameters
    keys, values = key.index_select(0, segments.key_index), value.index_select(0, segments.key_index)
    # The signature grew from release to release: is_causal became window_size, scale and enable_gqa came later.
    options: dict[str, object] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "scale" in known:
        options["scale"] = scaling
    else:
        query = query * (scaling * query.shape[-1] ** 0.5)
    if "enable_gqa" in known:
        options["enable_gqa"] = query.shape[1] != keys.shape[1]
    else:
        keys, values = (rows.repeat_interleave(query.shape[1] // rows.shape[1], dim=1) for rows in (keys, values))
    lengths = segments.max_query_length, segments.max_key_length
    output: Tensor = varlen_attn(query, keys, values, segments.cu_q, segments.cu_k, *lengths, **options)
    return output


def _obstacle(case: AttentionCase) -> str | None:
    return "has no soft-cap" if case.softcap else half_precision_on_cuda(case)


TORCH_VARLEN = AttentionBackend(
    name="torch_varlen",
    attend=attend,
    obstacle=_obstacle,
    module="torch.nn.attention.varlen",
    install="pip install 'torch>=2.11'",
)
