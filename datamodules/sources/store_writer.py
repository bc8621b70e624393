"""The arrays that a store of examples is made of, and what collects them, an example after the other."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from datamodules.contracts.examples import Example
from datamodules.loading.lengths import Ints

SPILL_TOKENS = 4 * 2**20
"""Tokens that a writer holds in memory before it moves them to its file."""


@dataclass(frozen=True, eq=False)
class StoreArrays:
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


class StoreWriter:
    """Collects examples in compact buffers (4 bytes a token, and some 80 an example).

    Args:
        spill_to: an existing folder on a disk: tokens beyond the first 16 MiB go to a nameless file there, which is gone when
            nobody reads it any more. In memory by default.
    """

    def __init__(self, spill_to: Path | None = None) -> None:
        self._spill_to = spill_to
        self._file: IO[bytes] | None = None
        self._num_tokens = 0
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

    def arrays(self) -> StoreArrays:
        """Everything added so far."""
        return StoreArrays(
            tokens=self._all_tokens(),
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

    def _add_segment(self, token_ids: tuple[int, ...], role: int, kind: int, score: float) -> None:
        self._tokens.extend(token_ids)
        self._num_tokens += len(token_ids)
        if self._spill_to is not None and len(self._tokens) >= SPILL_TOKENS:
            self._spill(self._spill_to)
        self._segment_offsets.append(self._num_tokens)
        self._roles.append(role)
        self._kinds.append(kind)
        self._scores.append(score)

    def _spill(self, folder: Path) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it goes with the writer)
            weakref.finalize(self, self._file.close)
        self._tokens.tofile(self._file)
        self._tokens = array("i")

    def _all_tokens(self) -> NDArray[np.int32]:
        if self._spill_to is None or self._file is None:
            return np.array(self._tokens, dtype=np.int32)
        self._spill(self._spill_to)
        self._file.flush()
        return np.memmap(self._file, dtype=np.int32, mode="r")
