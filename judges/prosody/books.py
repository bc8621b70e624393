"""Rhyme books: the characters that rhyme, and the level (平) and oblique (仄) ones, as classical poets read them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PINGSHUI_FILE = "Pingshui_Rhyme.json"
CILIN_FILE = "Cilin_Rhyme.json"
LEVEL, OBLIQUE = "平", "仄"

# Written forms that the books do not list, and the listed form of the same word.
VARIANTS = dict(zip("沉樽廻隣疎簷桮猨鵶碁粧煖髪邨珪妬堦麤慙懽飜僊", "沈尊回邻疏檐杯猿鸦棋妆暖发村圭妒阶粗惭欢翻仙", strict=True))


class RhymeBooks:
    """The Pingshui book (平水韵, for shi) and the Cilin (词林正韵, for ci), together.

    A character may stand in several groups (it had several readings); it then rhymes with each of them and satisfies either tone.

    Args:
        pingshui: `{part: {rhyme: characters}}`; parts whose name contains 平 are level, the others oblique.
        cilin: `{part: {tone: characters}}`; the tone 平声 is level, 仄声 and 入声 are oblique.
    """

    def __init__(
        self, pingshui: Mapping[str, Mapping[str, Sequence[str]]], cilin: Mapping[str, Mapping[str, Sequence[str]]]
    ) -> None:
        self._tones: defaultdict[str, set[str]] = defaultdict(set)
        self._groups = [
            self._index((rhyme, _tone(part), words) for part, rhymes in pingshui.items() for rhyme, words in rhymes.items()),
            self._index((part + tone, _tone(tone), words) for part, tones in cilin.items() for tone, words in tones.items()),
        ]
        self._parts = [self._index((part, _tone(tone), words) for part, tones in cilin.items() for tone, words in tones.items())]

    def _index(self, entries: Iterable[tuple[str, str, Sequence[str]]]) -> dict[str, set[str]]:
        groups: defaultdict[str, set[str]] = defaultdict(set)
        for group, tone, characters in entries:
            for character in characters:
                groups[character].add(group)
                self._tones[character].add(tone)
        return dict(groups)

    @classmethod
    def load(cls, folder: Path) -> RhymeBooks:
        """Read `Pingshui_Rhyme.json` and `Cilin_Rhyme.json` (simplified characters).

        Raises:
            FileNotFoundError: if either is missing.
        """
        missing = [name for name in (PINGSHUI_FILE, CILIN_FILE) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"expected rhyme books in {folder}, got no {' and no '.join(missing)}. "
                "Name a folder with the JSON files of the chinese_word_rhyme collection (see docs/judges.md)."
            )
        pingshui, cilin = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (PINGSHUI_FILE, CILIN_FILE))
        return cls(pingshui, cilin)

    def tones(self, character: str) -> frozenset[str]:
        """The tones a character can have, of 平 and 仄; empty if no book lists it."""
        return frozenset(self._tones.get(VARIANTS.get(character, character), ()))

    def has_tone(self, character: str, tone: str) -> bool:
        """Whether a character can be read in `tone`; an unlisted one gets the benefit of the doubt."""
        tones = self.tones(character)
        return tone in tones or not tones

    def rhyme_share(self, endings: Sequence[str], uses: int = 1, across_tones: bool = False) -> float:
        """How many of the endings rhyme with the largest group among them, in [0, 1]; by the book that is kinder to them.

        0 if none rhymes with another, 1 if all do: (largest - 1) / (count - 1).

        Args:
            endings: Last characters of the rows that should rhyme.
            uses: How often one and the same character counts; repeating a word is not rhyming.
            across_tones: Whether a level and an oblique character of one Cilin part rhyme, as some tunes have it (叶).
        """
        if len(endings) < 2:
            return 0.0
        counted = [character for character, times in Counter(endings).items() for _ in range(min(times, uses))]
        largest = max((_largest(counted, groups) for groups in (self._parts if across_tones else self._groups)), default=0)
        return max(0, largest - 1) / (len(endings) - 1)

    def do_rhyme(self, first: str, second: str) -> bool:
        """Whether two different characters rhyme in either book."""
        return first != second and self.rhyme_share((first, second)) == 1.0


def _tone(name: str) -> str:
    return LEVEL if LEVEL in name else OBLIQUE


def _largest(characters: Sequence[str], groups: Mapping[str, set[str]]) -> int:
    members = Counter(group for character in characters for group in groups.get(VARIANTS.get(character, character), ()))
    return max(members.values(), default=0)
