"""Tune patterns of Song ci (词谱): for each tune its formats, each a list of rows with prescribed tones and rhyme groups."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TypedDict

_LOG = logging.getLogger(__name__)
INDEX_FILE = "ci_index.json"
FORMAT_FOLDERS = ("ci_list/cipai_{}.json", "ci_long/cipai_{}_long.json")
_KINDS = ("令", "慢")
_TONES = "平仄中"
_NAME_SEPARATOR = re.compile(r"[\s・·•(（]")


class RawFormat(TypedDict):
    """A format as the pattern files have it."""

    ge_lyu_str: str
    """Tones of all characters: 平, 仄, or 中 for either."""
    ge_lyu_sep: list[str]
    """The tones with marks: 句 and 韵 (and kinds of rhyme) end a row, 读 is a pause within one."""
    ci_sep: list[str]
    """A model poem, its rows apart by wide spaces."""
    yun_classify: dict[str, list[int]]
    """Positions that rhyme with one another; a negative one rhymes in the other tone."""


@dataclass(frozen=True)
class TuneFormat:
    """One form of a tune."""

    tones: str
    """Tones of all characters."""
    row_ends: tuple[int, ...]
    """Characters up to and including each row."""
    pauses: frozenset[int]
    """Characters up to a pause within a row."""
    rhymes: tuple[tuple[int, ...], ...]
    """Groups of positions (0-based) whose characters rhyme with one another."""
    rhymes_across_tones: bool = False
    """Whether some position rhymes in the other tone than the rest of its group (叶)."""

    @cached_property
    def row_lengths(self) -> tuple[int, ...]:
        """Characters of each row."""
        return tuple(end - start for start, end in pairwise((0, *self.row_ends)))


class TunePatterns:
    """All tunes by all their names; a tune's formats are read when it is first asked for.

    Args:
        folder: With `ci_index.json`, `ci_list/` and, if there is one, `ci_long/` (the couyun collection, simplified characters).

    Raises:
        FileNotFoundError: if the index is missing.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / INDEX_FILE).is_file():
            raise FileNotFoundError(
                f"expected tune patterns in {folder}, got no {INDEX_FILE}. "
                "Name the folder that holds it and ci_list (see docs/judges.md)."
            )
        self._folder = folder
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        self._numbers: dict[str, int] = {name: entry["idx"] for entry in index for name in entry["names"]}
        self._formats: dict[int, tuple[TuneFormat, ...]] = {}

    def find(self, title: str) -> tuple[str, ...]:
        """The known tunes that a title names (`渔父词・渔父`, `浣溪沙 其一`), with the 令 and 慢 that a bare name may stand for."""
        parts = [part for part in _NAME_SEPARATOR.split(title) if part]
        return tuple(name for part in parts for name in (part, *(part + kind for kind in _KINDS)) if name in self._numbers)

    def formats(self, tunes: Iterable[str]) -> tuple[TuneFormat, ...]:
        """The formats of known tunes.

        Raises:
            KeyError: if a tune is not known.
        """
        numbers = dict.fromkeys(self._numbers[tune] for tune in tunes)
        return tuple(dict.fromkeys(form for number in numbers for form in self._read(number)))

    def _read(self, number: int) -> tuple[TuneFormat, ...]:
        if number not in self._formats:
            files = [self._folder / pattern.format(number) for pattern in FORMAT_FOLDERS]
            self._formats[number] = tuple(form for file in files if file.is_file() for form in _read_file(file))
        return self._formats[number]


def _read_file(file: Path) -> Iterator[TuneFormat]:
    for position, raw in enumerate(json.loads(file.read_text(encoding="utf-8"))):
        form = read_format(raw)
        if form is None:
            _LOG.warning("%s, format %d: its marks and its tones disagree on the length; it is left out.", file.name, position)
        else:
            yield form


def read_format(raw: RawFormat) -> TuneFormat | None:
    """A format from its file; None if the file contradicts itself about where the rows end."""
    tones = raw["ge_lyu_str"]
    row_ends, pauses = _read_marks(raw["ge_lyu_sep"])
    if not row_ends or row_ends[-1] != len(tones):
        row_ends, pauses = _read_model(raw["ci_sep"]), frozenset()
    if not row_ends or row_ends[-1] != len(tones):
        return None
    groups = raw["yun_classify"].values()
    rhymes = tuple(tuple(abs(position) for position in group) for group in groups if len(group) > 1)
    return TuneFormat(tones, row_ends, pauses, rhymes, any(position < 0 for group in groups for position in group))


def _read_marks(parts: Sequence[str]) -> tuple[tuple[int, ...], frozenset[int]]:
    ends: set[int] = set()
    pauses: set[int] = set()
    count = 0
    for part in parts:
        for mark, characters in re.findall(rf"([^{_TONES}]*)([{_TONES}]*)", part):
            (pauses if mark == "读" else ends).add(count)
            count += len(characters)
        ends.add(count)
    return tuple(sorted(ends - {0})), frozenset(pauses - ends - {0})


def _read_model(rows: Sequence[str]) -> tuple[int, ...]:
    return tuple(accumulate(len(row) for line in rows for row in re.split(r"\s+", line) if row))
