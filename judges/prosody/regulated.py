"""Tone patterns of regulated verse (近体诗): quatrains and eight-row poems of five or seven characters a row."""

from __future__ import annotations

from collections.abc import Sequence

from judges.prosody.books import LEVEL, OBLIQUE, RhymeBooks

# The four row types; 中 may be either tone. C has an accepted twin in which its third and fourth character change places.
_ROWS = {
    "A": ("中仄平平仄",),
    "B": ("平平仄仄平",),
    "C": ("中平平仄仄", "中平仄平仄"),
    "D": ("中仄仄平平",),
}
_OPENINGS = {"A": "中平", "B": "中仄", "C": "中仄", "D": "中平"}  # what a row of seven puts in front
# By whether the poem rhymes in the level or the oblique tone, and whether its first row rhymes too (the second of each two).
# Second characters oppose within a couplet (对) and agree across couplets (粘). A quatrain is the first half.
_LEVEL_RHYMED = ("ABCDABCD", "DBCDABCD", "CDABCDAB", "BDABCDAB")
_OBLIQUE_RHYMED = ("DCBADCBA", "ACBADCBA", "BADCBADC", "CADCBADC")


def tone_share(rows: Sequence[str], num_rows: int, words: int, books: RhymeBooks) -> float:
    """Share, in [0, 1], of the prescribed tones that a poem keeps, by the pattern that suits it best.

    Rows that are missing or of another length keep none of theirs.

    Args:
        rows: The poem.
        num_rows: Rows it should have, 4 or 8.
        words: Characters a row should have, 5 or 7.
        books: Tones of characters; a character with both readings satisfies either.
    """
    endings = [row[-1] for row in rows[1:num_rows:2]]
    is_oblique = bool(endings) and not any(books.has_tone(ending, LEVEL) for ending in endings)
    sequences = _OBLIQUE_RHYMED if is_oblique else _LEVEL_RHYMED
    return max(_sequence_share(rows, sequence[:num_rows], words, books) for sequence in sequences)


def templates(row_type: str, words: int) -> tuple[str, ...]:
    """Prescribed tones of a row type, for 5 or 7 characters; alternatives if there are any."""
    opening = _OPENINGS[row_type] if words == 7 else ""
    return tuple(opening + tail for tail in _ROWS[row_type])


def _sequence_share(rows: Sequence[str], sequence: str, words: int, books: RhymeBooks) -> float:
    kept = prescribed = 0
    for position, row_type in enumerate(sequence):
        alternatives = templates(row_type, words)
        prescribed += sum(tone in (LEVEL, OBLIQUE) for tone in alternatives[0])
        if position < len(rows) and len(rows[position]) == words:
            kept += max(count_kept(rows[position], template, books) for template in alternatives)
    return kept / prescribed


def count_kept(characters: str, template: str, books: RhymeBooks) -> int:
    """How many characters have the tone prescribed for them; 中 prescribes none."""
    return sum(
        tone in (LEVEL, OBLIQUE) and books.has_tone(character, tone) for character, tone in zip(characters, template, strict=True)
    )
