"""Reads from a prompt which form of poem it asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Form(Enum):
    """The paper's five forms, with the words that ask for them; the first that is found counts."""

    MODERN = r"现代诗|新诗|自由诗|白话诗|modern (?:poe|verse)|free verse"
    CI = r"宋词|词牌|填[^，。]{0,8}词|一[首阕]词|\b[Ss]ong [Cc]i\b|\bci\b"
    REGULATED = r"律诗|五律|七律|五言律|七言律|[Mm]etrical|[Rr]egulated"
    QUATRAIN = r"绝句|五绝|七绝|五言绝|七言绝|[Qq]uatrain"
    ANCIENT = r"古诗|古体|古风|乐府|[Aa]ncient"

    @property
    def pattern(self) -> re.Pattern[str]:
        """The words that ask for this form."""
        return re.compile(self.value)


_DIGITS = {"五": 5, "七": 7, "四": 4, "六": 6, "5": 5, "7": 7, "4": 4, "6": 6}
_WORDS = re.compile(
    r"(?P<count>[四五六七])(?:言|绝|律)|每[行句][^，。\d]{0,3}(?P<each>[四五六七4567])\s*个?字"
    r"|(?P<english>[4567])[- ](?:character|word)"
)
_QUOTED = re.compile(r"《[^》\n]*》|“[^”\n]*”|\"[^\"\n]*\"")
_TITLE = re.compile(
    r"(?:题目|标题|诗名|题)\s*(?:为|是|叫|[:：])?\s*[《“\"](?P<a>[^》”\"\n]{1,60})[》”\"]"
    r"|以\s*[《“\"](?P<b>[^》”\"\n]{1,60})[》”\"]\s*(?:为|作)(?:题|标题|题目)"
    r"|titled?\s*[:：]?\s*[《“\"'](?P<c>[^》”\"'\n]{1,60})[》”\"']"
    r"|(?:题目|标题)\s*[:：]\s*(?P<d>[^\n，。《]{1,60})"
)
_TUNE = re.compile(
    r"词牌(?:名)?\s*(?:为|是|用|[:：])?\s*[《“\"]?(?P<a>[一-鿿・·]{2,12}?)(?:[》”\"]|[，。\s]|$)"
    r"|[《“\"](?P<b>[一-鿿・·]{2,12})[》”\"]\s*(?:为|的)?词牌|(?:以|用|按|调寄)\s*[《“\"](?P<c>[一-鿿・·]{2,12})[》”\"]"
)


@dataclass(frozen=True)
class PoemRequest:
    """What was asked for."""

    form: Form
    words_per_row: int | None = None
    """5 or 7, where the prompt says so."""
    title: str | None = None
    tune: str | None = None
    """The tune (词牌) of a ci."""


def read_request(prompt: str) -> PoemRequest:
    """Read form, row length, title and tune from a prompt in Chinese or English.

    Raises:
        ValueError: if it names no form.
    """
    wording = _QUOTED.sub("", prompt)  # a title may name another form or row length
    form = next((form for form in Form if form.pattern.search(wording)), None)
    if form is None:
        raise ValueError(
            f"expected a prompt that names a form (绝句, 律诗, 宋词, 古诗, 现代诗), got {prompt[:80]!r}. "
            "Name the form in the prompt."
        )
    words = _first(_WORDS, wording)
    tune = _first(_TUNE, prompt) if form is Form.CI else None
    title = _first(_TITLE, prompt)
    return PoemRequest(form, _DIGITS[words] if words else None, title if title != tune else None, tune)


def _first(pattern: re.Pattern[str], prompt: str) -> str | None:
    match = pattern.search(prompt)
    return next((group.strip() for group in match.groups() if group), None) if match else None
