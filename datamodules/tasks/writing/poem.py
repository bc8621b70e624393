"""Classical Chinese poems: the prompt asks for a form and a title (or tune), and the answer is a poem with its title."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from datamodules.contracts.records import BadRowError, Fault
from datamodules.tasks.base import TaskItem
from datamodules.tasks.rows import Row, RowTask, words
from judges.poem import PoemJudge

QUATRAIN, REGULATED, CI, ANCIENT = "绝句", "律诗", "宋词", "古诗"
_ROW_END = re.compile(r"[，。！？；：、\s]+")
_LENGTH_NAMES = {5: "五言", 7: "七言"}
_MIN_ROWS = 4  # fewer are fragments, which the collections keep under titles such as 句
_UNFIT = re.compile(r"[《》“”\"\n{}□]")  # what a title in brackets cannot hold, and marks of lost characters


@dataclass(frozen=True, kw_only=True)
class PoemTask(RowTask):
    """Rows with `title`, `author` and `text`, or as in the chinese-poetry collection.

    There, `paragraphs` are the text, and `rhythmic` is the tune of a 宋词. `type` says the form; without it, it is told from the
    rows: 4 or 8 rows of 5 or 7 characters are 绝句 and 律诗. 宋词 have no titles of their own in the collections, so that they are
    asked for by tune and author. Fragments, and titles that cannot be quoted, are left out; a title in several hands is several
    solutions to one prompt.
    """

    name = "poem"

    forms: tuple[str, ...] = (QUATRAIN, REGULATED, CI, ANCIENT)
    """Forms to keep."""
    max_title_length: int = 16
    """Characters; poems with longer titles are left out."""
    rhyme_folder: str = "data/rhyme"
    """Where the task's own judge reads the rhyme books (docs/judges.md: where to get them)."""
    tune_folder: str | None = None
    """Where it reads the tunes of 宋词, which no other form needs."""

    def __post_init__(self) -> None:
        if unknown := set(self.forms) - {QUATRAIN, REGULATED, CI, ANCIENT}:
            raise ValueError(f"expected forms among {QUATRAIN}, {REGULATED}, {CI}, {ANCIENT}, got {sorted(unknown)}.")

    @override
    def parse(self, row: Row) -> TaskItem | None:
        text, title = _text(row), words(row, "rhythmic", "title")
        lengths = [len(part) for part in _ROW_END.split(text) if part]
        form = str(row.get("type") or _form(row, lengths))
        if form not in self.forms or len(lengths) < _MIN_ROWS or len(title) > self.max_title_length or _UNFIT.search(title + text):
            return None
        if form == CI:
            prompt = f"仿{words(row, 'author')}填一首宋词，词牌为《{title}》。\n"
        else:
            prompt = f"写一首{_length_name(lengths)}{form}，题目为《{title}》。\n"
        poem = f"《{title}》\n{text}"
        return TaskItem(prompt, poem, poem, subset=form, is_chat=self.is_chat)

    @override
    def own_judge(self) -> PoemJudge:
        return PoemJudge(self.rhyme_folder, self.tune_folder)


def _text(row: Row) -> str:
    paragraphs = row.get("paragraphs")
    if paragraphs is None:
        return words(row, "text")
    if not isinstance(paragraphs, list) or not all(isinstance(part, str) for part in paragraphs):
        raise BadRowError(Fault.WRONG_TYPE, f"'paragraphs' is {type(paragraphs).__name__}; expected a list of text")
    return "".join(paragraphs)


def _form(row: Row, lengths: Sequence[int]) -> str:
    if row.get("rhythmic"):
        return CI
    if len(set(lengths)) == 1 and lengths[0] in _LENGTH_NAMES:
        return {4: QUATRAIN, 8: REGULATED}.get(len(lengths), ANCIENT)
    return ANCIENT


def _length_name(lengths: Sequence[int]) -> str:
    return _LENGTH_NAMES.get(lengths[0], "") if len(set(lengths)) == 1 else ""
