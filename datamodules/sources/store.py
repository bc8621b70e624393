"""Tokenised examples as a few flat arrays, in memory or mapped from disk, so that workers share them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from datamodules.contracts.batches import Demand, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.loading.lengths import Ints, Lengths
from datamodules.sources.store_writer import StoreArrays, StoreWriter

_TOKENS, _TABLES, _NAMES = "tokens.bin", "tables.npz", "names.json"

_EXAMPLES_AT_ONCE = 8192
"""Examples whose offsets are Python numbers at a time."""


class ExampleStore(Sequence[Example]):
    """A read-only sequence of examples, or of a selection of them, that costs no Python object per example.

    Build one with `StoreWriter`, `ExampleStore.of` or `ExampleStore.load`.
    """

    def __init__(self, arrays: StoreArrays, indices: Ints | None = None) -> None:
        self._arrays = arrays
        self._indices = np.arange(len(arrays.row_numbers)) if indices is None else indices

    @classmethod
    def of(cls, examples: Iterable[Example]) -> ExampleStore:
        """Copy examples into arrays; a store is taken as it is."""
        if isinstance(examples, ExampleStore):
            return examples
        writer = StoreWriter()
        for example in examples:
            writer.add(example)
        return cls(writer.arrays())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Map what `save` wrote; tokens are read from disk as they are needed."""
        tables = np.load(folder / _TABLES)
        tokens = np.memmap(folder / _TOKENS, dtype=np.int32, mode="r")
        names: dict[str, Any] = {field: tuple(values) for field, values in json.loads((folder / _NAMES).read_text()).items()}
        return cls(StoreArrays(tokens=tokens, **names, **{name: tables[name] for name in tables.files}))

    def save(self, folder: Path) -> None:
        """Write the arrays of the whole store (not of a selection) into an existing folder."""
        fields = dict(vars(self._arrays))
        fields.pop("tokens").tofile(folder / _TOKENS)
        (folder / _NAMES).write_text(json.dumps({name: fields.pop(name) for name in ("kind_names", "source_names")}))
        np.savez(folder / _TABLES, **fields)

    def select(self, indices: Sequence[int] | Ints) -> ExampleStore:
        """The examples at `indices`, in that order, over the same arrays."""
        return ExampleStore(self._arrays, self._indices[np.asarray(indices, dtype=np.int64)])

    def lengths(self) -> Lengths:
        """Packed rows and scored positions of every example."""
        offsets = self._arrays.segment_offsets
        first, last = self._segments()
        ends = offsets[last]
        return Lengths(rows=ends - offsets[first], targets=ends - offsets[first + 1])

    def prompt_keys(self) -> Iterator[bytes]:
        """A digest of 16 bytes of every prompt's tokens, in order: equal keys, equal prompts."""
        offsets, (segments, _) = self._arrays.segment_offsets, self._segments()
        for first, last in _numbers(offsets[segments], offsets[segments + 1]):
            yield hashlib.blake2b(self._arrays.tokens[first:last].tobytes(), digest_size=16).digest()

    def demand(self, source: str) -> Demand:
        """What the examples ask of a model."""
        if not len(self):
            return Demand(source, 0, -1)
        arrays = self._arrays
        segments = np.diff(arrays.segment_offsets)
        starts = arrays.example_offsets[:-1]
        prompts = segments[starts]
        segments[starts] = 0
        longest = prompts + np.maximum.reduceat(segments, starts)
        tokens = np.maximum.reduceat(arrays.tokens, arrays.segment_offsets[starts])
        return Demand(source, int(longest[self._indices].max()), int(tokens[self._indices].max()))

    def fingerprint(self) -> str:
        """Hex digest of the token ids, their cut into prompts and completions, and their order."""
        digest = hashlib.sha256()
        arrays, offsets, lengths = self._arrays, self._arrays.segment_offsets, np.diff(self._arrays.segment_offsets)
        first, last = self._segments()
        for segment, end, token, end_token in _numbers(first, last, offsets[first], offsets[last]):
            digest.update(lengths[segment:end].tobytes())
            digest.update(arrays.tokens[token:end_token].tobytes())
        return digest.hexdigest()

    def content(self) -> str:
        """Hex digest of all that training reads: the tokens and their order, and every completion's role and score."""
        digest = hashlib.sha256(self.fingerprint().encode())
        for first, last in _numbers(*self._segments()):
            digest.update(self._arrays.roles[first:last].tobytes())
            digest.update(self._arrays.scores[first:last].tobytes())
        return digest.hexdigest()

    @override
    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> ExampleStore: ...

    @override
    def __getitem__(self, index: int | slice) -> Example | ExampleStore:
        if isinstance(index, slice):
            return ExampleStore(self._arrays, self._indices[index])
        arrays, example = self._arrays, int(self._indices[index])
        first, last = arrays.example_offsets[example : example + 2].tolist()
        return Example(
            prompt_ids=tuple(self._slice(first).tolist()),
            completions=tuple(self._completion(segment) for segment in range(first + 1, last)),
            row_number=int(arrays.row_numbers[example]),
            source=arrays.source_names[arrays.sources[example]],
        )

    def _completion(self, segment: int) -> TokenizedCompletion:
        arrays, score = self._arrays, float(self._arrays.scores[segment])
        return TokenizedCompletion(
            token_ids=tuple(self._slice(segment).tolist()),
            role=Role(int(arrays.roles[segment])),
            kind=arrays.kind_names[arrays.kinds[segment]],
            score=None if np.isnan(score) else score,
        )

    def _slice(self, segment: int) -> NDArray[np.int32]:
        first, last = self._arrays.segment_offsets[segment : segment + 2]
        return self._arrays.tokens[first:last]

    def _segments(self) -> tuple[Ints, Ints]:
        """First and past-the-end segment of every selected example."""
        return self._arrays.example_offsets[self._indices], self._arrays.example_offsets[self._indices + 1]


def _numbers(*columns: Ints) -> Iterator[tuple[int, ...]]:
    """The rows of several columns as Python numbers, made in parts."""
    for first in range(0, len(columns[0]), _EXAMPLES_AT_ONCE):
        yield from zip(*(column[first : first + _EXAMPLES_AT_ONCE].tolist() for column in columns), strict=True)
