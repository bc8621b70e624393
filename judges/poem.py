"""The poem judge: the paper's five dimensions (its Appendix C) for Chinese verse, by rule, each graded from 0 to 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from judges.base import Judge, Verdict
from judges.prosody.books import RhymeBooks
from judges.prosody.ci import grade_ci
from judges.prosody.regulated import tone_share
from judges.prosody.request import Form, PoemRequest, read_request
from judges.prosody.tunes import TunePatterns
from judges.prosody.verse import Verse, read_lines, read_verse

NUM_ROWS = {Form.QUATRAIN: 4, Form.REGULATED: 8}
ROW_LENGTHS = (5, 7)  # the paper says both this and "8"; no quatrain has 8
MIN_ROWS = 4  # of the forms without a fixed number; fewer are an aphorism
MAX_MODERN_LINE = 20  # characters; longer lines are prose


class PoemJudge(Judge):
    """Grades a poem on the dimensions that its form has; the score is their mean.

    | dimension | 绝句, 律诗 | 宋词 | 古诗 | 现代诗 |
    |---|---|---|---|---|
    | `row_number` | 4, 8 | as the tune has | at least 4 | at least 4 lines |
    | `words_per_row` | rows of 5 or 7 | the tune's rows | rows as long as a neighbour | lines of up to 20 |
    | `rhyme` | rows 2, 4 (6, 8) | where the tune rhymes | sentences that rhyme with a neighbour | - |
    | `tone_pattern` | 平仄 kept, best of four patterns | kept, best format of the tune | - | - |
    | `title` | likeness to the title asked for (宋词: its tune), where one is | | | |

    Each is a share of what is prescribed, never all-or-nothing: even of real quatrains a fifth break some rule. If the prompt asks
    for a row length, rows of that length count. Rhyme is by Pingshui or Cilin, whichever is kinder: real masters fail either
    alone. A ci whose tune the pattern files do not know is graded on `title` and, as a 古诗, on `rhyme`.

    Args:
        rhyme_folder: Holds `Pingshui_Rhyme.json` and `Cilin_Rhyme.json`; see docs/judges.md for where to get them.
        tune_folder: Holds `ci_index.json` and `ci_list/`; only needed for 宋词.
    """

    name = "poem"
    version = "1"
    scale = (0.0, 1.0)

    def __init__(self, rhyme_folder: str, tune_folder: str | None = None) -> None:
        self._books = RhymeBooks.load(Path(rhyme_folder))
        self._tunes = TunePatterns(Path(tune_folder)) if tune_folder else None

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one poem; `answer` is not used, as the rules are the gold.

        Raises:
            ValueError: if the prompt names no form, or asks for a ci and no tune patterns were given.
        """
        request = read_request(prompt)
        grade = {Form.MODERN: self._grade_modern, Form.CI: self._grade_ci, Form.ANCIENT: self._grade_ancient}
        details = grade.get(request.form, self._grade_regulated)(request, response)
        score = sum(details.values()) / len(details) if details else 0.0
        return Verdict(score, ", ".join(f"{name} {value:.2f}" for name, value in details.items()), details=details)

    def results(self, verdict: Verdict) -> Mapping[str, float]:
        """The paper's five dimensions, those that the poem's form has (Table 3)."""
        return verdict.details

    def _grade_regulated(self, request: PoemRequest, response: str) -> dict[str, float]:
        verse, wanted = read_verse(response), NUM_ROWS[request.form]
        words = request.words_per_row or _commonest_length(verse)
        endings = verse.endings[1:wanted:2]
        details = {
            "row_number": max(0.0, 1 - abs(len(verse.rows) - wanted) / wanted),
            "words_per_row": sum(len(row) == words for row in verse.rows[:wanted]) / max(wanted, len(verse.rows)),
            "rhyme": self._books.rhyme_share(endings) * max(0, len(endings) - 1) / (wanted // 2 - 1),
        }
        if words in ROW_LENGTHS:  # rows of six, rare, have no prescribed tones
            details["tone_pattern"] = tone_share(verse.rows, wanted, words, self._books)
        return details | _title_grade(request.title, verse.title)

    def _grade_ci(self, request: PoemRequest, response: str) -> dict[str, float]:
        if self._tunes is None:
            raise ValueError("expected tune patterns to judge a ci, got none. Give the judge a tune_folder.")
        verse = read_verse(response)
        tunes = self._tunes.find(request.tune or request.title or verse.title or "")
        title = _tune_grade(request, verse.title)
        if not tunes:
            return {"rhyme": self._neighbour_rhyme(verse, verse.sentence_rows), **title}
        grades = grade_ci(verse, self._tunes.formats(tunes), self._books)
        return {
            "row_number": grades.row_number,
            "words_per_row": grades.words_per_row,
            "rhyme": grades.rhyme,
            "tone_pattern": grades.tone_pattern,
            **title,
        }

    def _grade_ancient(self, request: PoemRequest, response: str) -> dict[str, float]:
        verse = read_verse(response)
        lengths = [len(row) for row in verse.rows]
        if request.words_per_row:
            fitting = lengths.count(request.words_per_row)
        else:
            fitting = sum(n in (before, after) for before, n, after in zip([0, *lengths], lengths, [*lengths[1:], 0], strict=False))
        return {
            "row_number": min(1.0, len(verse.rows) / MIN_ROWS),
            "words_per_row": fitting / max(1, len(verse.rows)),
            "rhyme": self._neighbour_rhyme(verse, verse.sentence_rows),
            **_title_grade(request.title, verse.title),
        }

    def _grade_modern(self, request: PoemRequest, response: str) -> dict[str, float]:
        title, lines = read_lines(response)
        return {
            "row_number": min(1.0, len(lines) / MIN_ROWS),
            "words_per_row": sum(len(line) <= MAX_MODERN_LINE for line in lines) / max(1, len(lines)),
            **_title_grade(request.title, title),
        }

    def _neighbour_rhyme(self, verse: Verse, rows: Sequence[int]) -> float:
        """Share of `rows` that rhyme with the one before or after among them, or with the row just before (rhymes may change)."""
        ends = [verse.endings[row] for row in rows]
        rhymed = sum(
            any(self._books.do_rhyme(ends[i], ends[j]) for j in (i - 1, i + 1) if 0 <= j < len(ends))
            or (row > 0 and self._books.do_rhyme(ends[i], verse.endings[row - 1]))
            for i, row in enumerate(rows)
        )
        return rhymed / len(rows) if rows else 0.0


def _commonest_length(verse: Verse) -> int:
    lengths = Counter(len(row) for row in verse.rows if len(row) in ROW_LENGTHS)
    return lengths.most_common(1)[0][0] if lengths else ROW_LENGTHS[0]


def _title_grade(wanted: str | None, given: str | None) -> dict[str, float]:
    return {} if wanted is None else {"title": _likeness(wanted, given)}


def _tune_grade(request: PoemRequest, given: str | None) -> dict[str, float]:
    """A ci is named after its tune; a title of its own, if one is asked for, counts as much."""
    grades = [float(given is not None and request.tune in given)] if request.tune else []
    if request.title:
        grades.append(max(_likeness(request.title, part) for part in (given or "").replace("・", "·").split("·")))
    return {"title": sum(grades) / len(grades)} if grades else {}


def _likeness(wanted: str, given: str | None) -> float:
    return SequenceMatcher(None, wanted.replace(" ", ""), (given or "").replace(" ", ""), autojunk=False).ratio()
