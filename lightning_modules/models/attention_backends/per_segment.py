"""Scaled-dot-product attention segment by segment: works everywhere, and is the only choice on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.models.attention_backends.base import AttentionBackend
from lightning_modules.models.layers.segments import PackedSegments, SegmentGroup, SegmentGrouping


def attend(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, *, scaling: float, softcap: float | None) -> Tensor:
    """One call for each distinct (query length, key length), no padding (see `Attend`)."""
    grouping = segments.grouping
    if grouping.query_order is not None:
        query = query.index_select(0, grouping.query_order)
    # split (not slicing): its backward is one concatenation instead of a full-size zero tensor for every segment.
    key_sizes = [g.count * g.key_length for g in grouping.groups]
    queries = torch.split(query, [g.count * g.query_length for g in grouping.groups])
    keys = torch.split(key.index_select(0, grouping.key_index), key_sizes)
    values = torch.split(value.index_select(0, grouping.key_index), key_sizes)
    outputs = [
        _attend_group(_batched(q, group), _batched(k, group), _batched(v, group), group, grouping, scaling, softcap)
        for q, k, v, group in zip(queries, keys, values, grouping.groups, strict=True)
    ]
    output = torch.cat(outputs)
    return output if grouping.query_position is None else output.index_select(0, grouping.query_position)


def _batched(rows: Tensor, group: SegmentGroup) -> Tensor:
    """`[G * L, heads, D]` rows as `[G, heads, L, D]`."""
    return rows.view(group.count, -1, *rows.shape[1:]).transpose(1, 2)


def _attend_group(
    q: Tensor, k: Tensor, v: Tensor, group: SegmentGroup, grouping: SegmentGrouping, scaling: float, softcap: float | None
) -> Tensor:
    """`[G * Lq, Hq, D]` from `[G, heads, L, D]`."""
    if softcap is not None or k.device.type != "cpu":
        # On an accelerator a mask beside fewer key heads leaves only kernels that form all scores.
        k, v = (rows.repeat_interleave(q.shape[1] // rows.shape[1], dim=1) for rows in (k, v))
    gqa = q.shape[1] != k.shape[1]
    if softcap is not None:
        output = _capped_attention(q, k, v, grouping.mask(group), scaling, softcap)
    elif group.query_length == group.key_length:
        output = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=gqa)
    else:
        # is_causal would align at the top left; the mask aligns at the bottom right.
        mask = grouping.mask(group)
        output = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=gqa)
    return output.transpose(1, 2).flatten(0, 1)


def _capped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float) -> Tensor:
    """Attention of equally many heads with soft-capped scores (Gemma 2, arXiv 2408.00118 section 2), which SDPA cannot cap."""
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * (scaling / softcap))
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.to(value.dtype) @ value


PER_SEGMENT = AttentionBackend(name="sdpa", attend=attend, obstacle=lambda _: None)
