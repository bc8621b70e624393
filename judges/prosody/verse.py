"""Splits a response into the parts of a poem: title, rows, and the pauses within a row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate, zip_longest

_CHARACTER = re.compile(r"[㐀-䶿一-鿿豈-﫿\U00020000-\U0003ffff]")
_ROW_END = re.compile(r"([，。！？；：,.!?;:\n]+)")
_STOP = re.compile(r"[。！？；.!?;]")
_PAUSE = re.compile("、")
_LABEL = r"\**\s*(?:题目|标题|诗名|词牌名?)\s*[:：]\s*"
_TITLE = re.compile(rf"^\s*(?:{_LABEL})?[*#\s]*《(?P<marked>[^》\n]{{1,60}})》[^\n，。！？；]{{0,30}}(?:\n|$)")
_BARE_TITLE = re.compile(rf"^\s*(?:{_LABEL})?[*#\s]*(?P<bare>[^\n，。！？；,.!?;]{{1,40}}?)\**\s*\n(?=.)")


@dataclass(frozen=True)
class Verse:
    """A poem taken apart."""

    title: str | None
    """Title as the response states it, without brackets; None if it states none."""
    rows: tuple[str, ...]
    """Characters between marks that end a row, without any punctuation; never empty strings."""
    sentence_rows: tuple[int, ...]
    """Which rows end at a full stop or its like; every second one where no stops are written."""
    pauses: frozenset[int]
    """Positions in the whole text (in characters, as for `row_ends`) behind which an enumeration comma stands."""

    @property
    def text(self) -> str:
        """All characters without punctuation."""
        return "".join(self.rows)

    @property
    def row_ends(self) -> tuple[int, ...]:
        """Characters up to and including each row."""
        return tuple(accumulate(map(len, self.rows)))

    @property
    def endings(self) -> tuple[str, ...]:
        """The last character of each row."""
        return tuple(row[-1] for row in self.rows)


def read_verse(response: str) -> Verse:
    """Take a response apart.

    A title is a first line in 《》, or a first line without punctuation where more lines follow that have some. Rows end at
    commas, stops, colons and line breaks; at 、 one may pause.
    """
    title, body = _split_title(response.strip())
    rows: list[str] = []
    pauses: set[int] = set()
    stops: list[int] = []
    length = 0
    pieces = _ROW_END.split(body)
    for raw, mark in zip_longest(pieces[::2], pieces[1::2], fillvalue=""):
        parts = ["".join(_CHARACTER.findall(part)) for part in _PAUSE.split(raw)]
        if any(parts):
            pauses.update(length + end for end in accumulate(map(len, parts[:-1])))
            rows.append("".join(parts))
            length += len(rows[-1])
            if _STOP.search(mark):
                stops.append(len(rows) - 1)
    return Verse(title, tuple(rows), tuple(stops) or tuple(range(1, len(rows), 2)), frozenset(pauses))


def read_lines(response: str) -> tuple[str | None, tuple[str, ...]]:
    """Title and lines (punctuation dropped) of a poem whose rows are its lines, as in modern verse."""
    title, body = _split_title(response.strip())
    lines = ("".join(_CHARACTER.findall(line)) for line in body.splitlines())
    return title, tuple(line for line in lines if line)


def _split_title(response: str) -> tuple[str | None, str]:
    if match := _TITLE.match(response):
        return match["marked"].strip(), response[match.end() :]
    match = _BARE_TITLE.match(response)
    if match and _CHARACTER.search(match["bare"]) and _is_punctuated(response[match.end() :]):
        return match["bare"].strip("《》 "), response[match.end() :]
    return None, response


def _is_punctuated(body: str) -> bool:
    return re.search("[，。！？；,.!?;]", body) is not None
