"""The segments of a packed batch (which rows attend to which), in the form that attention backends read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.one_copy import copy_to


@dataclass(frozen=True)
class SegmentGroup:
    """Segments of equal shape: one attention call without padding."""

    count: int
    """G segments."""
    query_length: int
    """Lq rows each."""
    key_length: int
    """Lk >= Lq keys each."""


@dataclass(frozen=True, eq=False)
class PackedSegments:
    """S segments over N rows: segment s lets its Lq query rows see its Lk keys, causally, aligned at the bottom right.

    Query i of a segment sees the keys j <= i + Lk - Lq.
    """

    key_index: Tensor
    """`[M]` int64: row each key is read from."""
    cu_q: Tensor
    """`[S + 1]` int32: cumulative query lengths."""
    cu_k: Tensor
    """`[S + 1]` int32: cumulative key lengths."""
    query_lengths: tuple[int, ...]
    """S host-side lengths."""
    key_lengths: tuple[int, ...]
    """S host-side lengths."""

    @classmethod
    def of(cls, batch: CompletionBatch) -> PackedSegments:
        """The segments of a batch."""
        return cls(batch.key_index, batch.cu_q, batch.cu_k, batch.query_lengths, batch.key_lengths)

    @cached_property
    def max_query_length(self) -> int:
        """Longest Lq."""
        return max(self.query_lengths)

    @cached_property
    def max_key_length(self) -> int:
        """Longest Lk."""
        return max(self.key_lengths)

    @cached_property
    def grouping(self) -> SegmentGrouping:
        """The segments grouped by shape; made once per batch and shared by all layers."""
        return SegmentGrouping(self)


class SegmentGrouping:
    """Equal (Lq, Lk) next to one another, so that each group is one batched call.

    The order of rows changes only if two segments share a shape; otherwise `query_order` is None and nothing is permuted.
    """

    def __init__(self, segments: PackedSegments) -> None:
        members: dict[tuple[int, int], list[int]] = {}
        for number, shape in enumerate(zip(segments.query_lengths, segments.key_lengths, strict=True)):
            members.setdefault(shape, []).append(number)
        self.groups = tuple(SegmentGroup(len(numbers), *shape) for shape, numbers in members.items())
        self.query_order: Tensor | None = None
        self.query_position: Tensor | None = None
        self.key_index = segments.key_index
        self._masks: dict[tuple[int, int], Tensor] = {}
        if len(self.groups) < len(segments.query_lengths):
            self._permute(segments, [number for numbers in members.values() for number in numbers])

    def _permute(self, segments: PackedSegments, order: list[int]) -> None:
        query_order = torch.tensor(list(_rows(segments.query_lengths, order)))
        orders = {
            "query": query_order,
            "position": query_order.argsort(),
            "key": torch.tensor(list(_rows(segments.key_lengths, order))),
        }
        there = orders if segments.key_index.device.type == "cpu" else copy_to(orders, segments.key_index.device)
        self.query_order, self.query_position = there["query"], there["position"]
        self.key_index = segments.key_index[there["key"]]

    def mask(self, group: SegmentGroup) -> Tensor:
        """`[Lq, Lk]` bool, True = visible: bottom-right causal. Kept, since every layer asks for it again."""
        shape = (group.query_length, group.key_length)
        if shape not in self._masks:
            offset = group.key_length - group.query_length
            self._masks[shape] = torch.ones(shape, dtype=torch.bool, device=self.key_index.device).tril(offset)
        return self._masks[shape]


def _rows(lengths: tuple[int, ...], order: Iterable[int]) -> Iterable[int]:
    spans = [range(start, end) for start, end in pairwise(accumulate(lengths, initial=0))]
    return (row for number in order for row in spans[number])
