"""Tokenised examples as a few flat arrays, in memory or mapped from disk, so that workers share them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from datamodules.contracts.batches import Demand, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.loading.lengths import Ints, Lengths

_TOKENS, _TABLES, _NAMES = "tokens.bin", "tables.npz", "names.json"


@dataclass(frozen=True, eq=False)
class _Arrays:
    """A segment is a prompt or a completion; an example is a prompt segment and the completion segments after it."""

    tokens: NDArray[np.int32]
    segment_offsets: Ints
    """`[segments + 1]` into tokens."""
    example_offsets: Ints
    """`[examples + 1]` into segments."""
    roles: NDArray[np.int8]
    """`[segments]`, -1 for a prompt."""
    kinds: NDArray[np.int16]
    """`[segments]` into `kind_names`, -1 for a prompt."""
    scores: NDArray[np.float64]
    """`[segments]`, NaN where there is none."""
    row_numbers: Ints
    """`[examples]`."""
    sources: NDArray[np.int16]
    """`[examples]` into `source_names`."""
    kind_names: tuple[str, ...]
    source_names: tuple[str, ...]


class ExampleStore(Sequence[Example]):
    """A read-only sequence of examples, or of a selection of them, that costs no Python object per example.

    Build one with `StoreWriter`, `ExampleStore.of` or `ExampleStore.load`.
    """

    def __init__(self, arrays: _Arrays, indices: Ints | None = None) -> None:
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
        return writer.store()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Map what `save` wrote; tokens are read from disk as they are needed."""
        tables = np.load(folder / _TABLES)
        tokens = np.memmap(folder / _TOKENS, dtype=np.int32, mode="r")
        names: dict[str, Any] = {field: tuple(values) for field, values in json.loads((folder / _NAMES).read_text()).items()}
        return cls(_Arrays(tokens=tokens, **names, **{name: tables[name] for name in tables.files}))

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
        """The tokens of every prompt as bytes, in order: equal keys, equal prompts."""
        offsets, (segments, _) = self._arrays.segment_offsets, self._segments()
        for first, last in zip(offsets[segments].tolist(), offsets[segments + 1].tolist(), strict=True):
            yield self._arrays.tokens[first:last].tobytes()

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
        bounds = (bound.tolist() for bound in (first, last, offsets[first], offsets[last]))
        for segment, end, token, end_token in zip(*bounds, strict=True):
            digest.update(lengths[segment:end].tobytes())
            digest.update(arrays.tokens[token:end_token].tobytes())
        return digest.hexdigest()

    def content(self) -> str:
        """Hex digest of all that training reads: the tokens and their order, and every completion's role and score."""
        digest = hashlib.sha256(self.fingerprint().encode())
        for first, last in zip(*(bound.tolist() for bound in self._segments()), strict=True):
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


class StoreWriter:
    """Collects examples in compact buffers (4 bytes a token)."""

    def __init__(self) -> None:
        self._tokens = array("i")
        self._segment_offsets = array("q", [0])
        self._example_offsets = array("q", [0])
        self._roles = array("b")
        self._kinds = array("h")
        self._scores = array("d")
        self._row_numbers = array("q")
        self._sources = array("h")
        self._kind_names: list[str] = []
        self._source_names: list[str] = []

    def add(self, example: Example) -> None:
        """Append one example."""
        self._add_segment(example.prompt_ids, -1, -1, np.nan)
        for completion in example.completions:
            if completion.kind not in self._kind_names:
                self._kind_names.append(completion.kind)
            score = np.nan if completion.score is None else completion.score
            self._add_segment(completion.token_ids, int(completion.role), self._kind_names.index(completion.kind), score)
        self._example_offsets.append(len(self._roles))
        self._row_numbers.append(example.row_number)
        if example.source not in self._source_names:
            self._source_names.append(example.source)
        self._sources.append(self._source_names.index(example.source))

    def store(self) -> ExampleStore:
        """Everything added so far."""
        return ExampleStore(
            _Arrays(
                tokens=np.array(self._tokens, dtype=np.int32),
                segment_offsets=np.array(self._segment_offsets, dtype=np.int64),
                example_offsets=np.array(self._example_offsets, dtype=np.int64),
                roles=np.array(self._roles, dtype=np.int8),
                kinds=np.array(self._kinds, dtype=np.int16),
                scores=np.array(self._scores, dtype=np.float64),
                row_numbers=np.array(self._row_numbers, dtype=np.int64),
                sources=np.array(self._sources, dtype=np.int16),
                kind_names=tuple(self._kind_names),
                source_names=tuple(self._source_names),
            )
        )

    def _add_segment(self, token_ids: tuple[int, ...], role: int, kind: int, score: float) -> None:
        self._tokens.extend(token_ids)
        self._segment_offsets.append(len(self._tokens))
        self._roles.append(role)
        self._kinds.append(kind)
        self._scores.append(score)
