"""Grades a ci against its tune: rows, row lengths, rhyme and tones, in the format that fits it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from judges.prosody.books import RhymeBooks
from judges.prosody.tunes import TuneFormat
from judges.prosody.verse import Verse

USES_OF_A_RHYME = 2  # some tunes repeat a rhyme word (叠韵); more is monotony


@dataclass(frozen=True)
class CiGrades:
    """Grades in [0, 1] against one format."""

    row_number: float
    words_per_row: float
    rhyme: float
    tone_pattern: float

    @property
    def total(self) -> float:
        """Their sum, by which the best format is chosen."""
        return self.row_number + self.words_per_row + self.rhyme + self.tone_pattern


def grade_ci(verse: Verse, formats: Sequence[TuneFormat], books: RhymeBooks) -> CiGrades:
    """Grades by the format that gives the highest total; zeros for an empty poem."""
    if not verse.rows or not formats:
        return CiGrades(0.0, 0.0, 0.0, 0.0)
    return max((_grade(verse, form, books) for form in formats), key=lambda grades: grades.total)


def _grade(verse: Verse, form: TuneFormat, books: RhymeBooks) -> CiGrades:
    places = align(verse, form)
    text = verse.text
    prescribed = sum(tone != "中" for tone in form.tones)
    kept = sum(form.tones[place] != "中" and books.has_tone(text[index], form.tones[place]) for place, index in places.items())
    return CiGrades(
        row_number=max(0.0, 1 - abs(len(verse.rows) - len(form.row_ends)) / len(form.row_ends)),
        words_per_row=_share_of_rows(verse, form, places),
        rhyme=_rhyme(text, form, places, books),
        tone_pattern=kept / prescribed if prescribed else 1.0,
    )


def align(verse: Verse, form: TuneFormat) -> dict[int, int]:
    """For each place of the format the character that stands there.

    Position by position if the lengths agree (editors punctuate the same ci differently), else over the rows of equal length.
    """
    text_length = verse.row_ends[-1]
    if text_length == len(form.tones):
        return {place: place for place in range(text_length)}
    lengths = tuple(map(len, verse.rows))
    verse_starts, form_starts = (0, *verse.row_ends), (0, *form.row_ends)
    places: dict[int, int] = {}
    for block in SequenceMatcher(None, form.row_lengths, lengths, autojunk=False).get_matching_blocks():
        start, end = form_starts[block.a], form_starts[block.a + block.size]
        places.update((place, place - start + verse_starts[block.b]) for place in range(start, end))
    return places


def _share_of_rows(verse: Verse, form: TuneFormat, places: dict[int, int]) -> float:
    """Rows of the format that the poem also begins and ends there; a pause may stand for the end of a row, either way."""
    ends = {0, *verse.row_ends} | verse.pauses
    starts = (0, *form.row_ends[:-1])
    hits = sum(
        start in places and places[start] in ends and places.get(end - 1, -2) + 1 in ends
        for start, end in zip(starts, form.row_ends, strict=True)
    )
    return min(1.0, hits / max(len(form.row_ends), len(verse.rows) - len(form.pauses)))


def _rhyme(text: str, form: TuneFormat, places: dict[int, int], books: RhymeBooks) -> float:
    wanted = sum(len(group) - 1 for group in form.rhymes)
    got = 0.0
    for group in form.rhymes:
        endings = [text[places[place]] for place in group if place in places]
        got += books.rhyme_share(endings, USES_OF_A_RHYME, form.rhymes_across_tones) * max(0, len(endings) - 1)
    return got / wanted if wanted else 1.0
