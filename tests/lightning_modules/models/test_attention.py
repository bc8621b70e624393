"""Packed attention against the definition, written out in float64 with a dense mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.models.attention_backends.per_segment import attend
from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.layers.attention import PackedCall, packed_attention
from lightning_modules.models.layers.segments import PackedSegments
from tests.lightning_modules.models.architectures import make_batch

D = 6


def dense(query: Tensor, key: Tensor, value: Tensor, segments: PackedSegments, scaling: float, softcap: float | None) -> Tensor:
    """Softmax attention of every query row over its own keys, one row and head at a time."""
    groups = query.shape[1] // key.shape[1]
    output = []
    for number, (length, keys) in enumerate(zip(segments.query_lengths, segments.key_lengths, strict=True)):
        rows = segments.key_index[segments.cu_k[number] : segments.cu_k[number + 1]]
        for i in range(length):
            seen = rows[: keys - length + i + 1]
            q = query[segments.cu_q[number] + i]
            k, v = key[seen].repeat_interleave(groups, 1), value[seen].repeat_interleave(groups, 1)
            scores = torch.einsum("hd,khd->hk", q, k) * scaling
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            output.append(torch.einsum("hk,khd->hd", scores.softmax(1), v))
    return torch.stack(output)


def make_rows(heads: int, key_heads: int, rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(rows, heads, D), (rows, key_heads, D), (rows, key_heads, D)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (3, 1)])
def test_per_segment_equals_the_definition(heads: int, key_heads: int, softcap: float | None) -> None:
    batch = make_batch()
    segments = PackedSegments.of(batch)
    rows = make_rows(heads, key_heads, batch.num_rows)
    query, key, value = rows
    got = attend(query, key, value, segments, scaling=0.4, softcap=softcap)
    want = dense(query, key, value, segments, 0.4, softcap)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(want)
    for ours, theirs in zip(torch.autograd.grad(got, rows, weights), torch.autograd.grad(want, rows, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_equal_shapes_share_a_call_and_distinct_shapes_are_not_permuted() -> None:
    grouping = PackedSegments.of(make_batch()).grouping
    # Of twelve segments the two prompts of 6, the completions 6+4 and the completions 3+2 come in pairs.
    assert [(group.count, group.query_length, group.key_length) for group in grouping.groups] == [
        (2, 6, 6),
        (2, 4, 10),
        (1, 7, 13),
        (1, 3, 3),
        (1, 5, 8),
        (2, 2, 5),
        (1, 1, 7),
        (1, 1, 1),
        (1, 3, 4),
    ]
    assert grouping.query_order is not None
    bounds = torch.tensor([0, 2, 5], dtype=torch.int32)
    keys = torch.tensor([0, 1, 0, 1, 2, 3, 4])
    distinct = PackedSegments(keys, bounds, torch.tensor([0, 2, 7], dtype=torch.int32), (2, 3), (2, 5)).grouping
    assert distinct.query_order is None
    assert distinct.key_index is keys


def call(**options: Any) -> tuple[Tensor, None]:
    batch = make_batch()
    query, key, value = (row.transpose(0, 1).unsqueeze(0) for row in make_rows(2, 2, batch.num_rows))
    packed = PackedCall(PackedSegments.of(batch), BackendSelector())
    options = {"attention_mask": None, "packed": packed} | options
    return packed_attention(nn.Identity(), query, key, value, **options)


def test_transformers_shapes_and_default_scaling() -> None:
    output, weights = call()
    batch = make_batch()
    query, key, value = make_rows(2, 2, batch.num_rows)
    want = dense(query, key, value, PackedSegments.of(batch), D**-0.5, None)
    torch.testing.assert_close(output[0], want)
    assert weights is None
    torch.testing.assert_close(call(sliding_window=13)[0], output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packed": None}, "packed=False"),
        ({"attention_mask": torch.ones(1)}, "mask=True"),
        ({"position_bias": torch.ones(1)}, "position_bias=True"),
        ({"s_aux": torch.ones(1)}, "s_aux=True"),
        ({"dropout": 0.1}, "attention without dropout, got 0.1"),
        ({"sliding_window": 12}, "sliding window of at least 13 tokens"),
    ],
)
def test_what_packing_does_not_have_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(**options)
