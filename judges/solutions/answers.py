"""Finds and reads the final answer of a worked response, in English or Chinese."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from judges.solutions.rationals import NUMBER, Rational, parse_rational

MAX_BARE_GOLD = 200  # characters; a longer gold is a solution
MAX_ANSWER = 2000  # characters; a longer one is never compared by algebra

MAX_BOXES = 20  # the last ones count; a thousand of them are runaway repetition


class FinalAnswer(NamedTuple):
    """An answer found in a text."""

    text: str
    """What it says, without delimiters and final punctuation."""
    start: int
    """Where its statement begins (the marker included), in characters."""
    end: int
    """Where its statement ends."""


# Marks that are made for the purpose beat phrases, and phrases beat the last number; within a tier the last one counts.
_HASHES = re.compile(r"####[ \t]*(?P<answer>[^\n]+)")
_LENTICULAR = re.compile(r"【[ \t]*(?P<answer>[-+−$\\(.\d][^【】\n]{0,80})】")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{|\d)")
_SENTENCE = r"(?P<answer>(?:[^\n.。；;]|\.(?=\S)){1,300})"
_PHRASES = (
    re.compile(r"(?:【答案】|答案|结果)[ \t]*(?:应该|应当)?(?:就?是|应?为|等于|[:：=])+[ \t]*" + _SENTENCE),
    re.compile(r"【答案】[ \t]*" + _SENTENCE),
    re.compile(r"^[ \t]*答[ \t]*[:：,，][ \t]*" + _SENTENCE, re.MULTILINE),
    re.compile(r"\banswer[ \t]*(?:is|to[^\n.:]{1,60}is|[:=])[ \t:]*" + _SENTENCE, re.IGNORECASE),
    re.compile(r"^[ \t]*A:[ \t]*(?P<answer>[^\n]+)", re.MULTILINE),
)
_INLINE_MATHS = re.compile(r"(?<!\\)\$(?P<answer>[^$\n]{1,300})(?<!\\)\$|\\\((?P<round>[^\n]{1,300}?)\\\)")

_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("【", "】"))
_ASSIGNMENT = re.compile(r"^\s*\\?[A-Za-z]\w{0,9}\s*=\s*(?=\S)")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
_BOLD = re.compile(r"(?<![\w)])\*\*([^*\n]+)\*\*(?![\w(])")
_SPACING = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|dfrac(?=X))|~|\\quad")
_NUMERAL = re.compile(
    rf"[-−+]?(?:\d+\s*\(\d+/\d+\)|\(\d+/\d+\)|{NUMBER.pattern}(?:\s*/\s*\d+)?|\\[dt]?frac\s*\{{-?\d+\}}\s*\{{\d+\}})(?:\s*\\?%)?"
)
_UNIT_CHARACTERS = re.compile(r"(?:[^\W\d_]|[\s$￥¥€£°.,，、:：'’/-])*")
_SYMBOL_OR_OPERATOR = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])|(?:^|\s)[-/]|[-/](?:\s|$)")


def find_answer(text: str) -> FinalAnswer | None:
    r"""The final answer of a response or of a reference solution; None if it states none.

    Looked for in this order, the last of its kind: `#### n`, `\boxed{n}` and `【n】`; then "答案是 n", "【答案】n", "答：n",
    "the answer is n", "A: n"; then inline maths or a number in the last line that has one.
    """
    for candidates in (_marked(text), _phrased(text), _trailing(text)):
        found = [answer for answer in candidates if answer.text]
        if found:
            return max(found, key=lambda answer: answer.start)
    return None


def gold_answer(answer: str) -> str:
    """The final answer that a gold stands for, be it the bare answer or a worked solution that states one."""
    marked = [*_marked(answer)] or [*_phrased(answer)]
    if not marked and ("\n" in answer.strip() or len(answer) > MAX_BARE_GOLD):
        marked = [*_trailing(answer)]
    return max(marked, key=lambda found: found.start).text if marked else tidy(answer)


def _marked(text: str) -> Iterator[FinalAnswer]:
    for pattern in (_HASHES, _LENTICULAR):
        for match in pattern.finditer(text):
            yield FinalAnswer(tidy(match["answer"]), match.start(), match.end())
    for match in list(_BOX.finditer(text))[-MAX_BOXES:]:
        end = _closing_brace(text, match.end()) if text[match.end()] == "{" else match.end()
        if end is not None:
            yield FinalAnswer(_boxed(text[match.end() : end + 1]), match.start(), end + 1)


def _boxed(content: str) -> str:
    # A longer one stays the answer, cut just beyond what any comparison takes: its tail must not be taken for an answer.
    inner = content[1:-1]
    return tidy(content) if len(inner) <= MAX_ANSWER else inner[: MAX_ANSWER + 1]


def _phrased(text: str) -> Iterator[FinalAnswer]:
    for pattern in _PHRASES:
        for match in pattern.finditer(text):
            inner = _last_maths(match["answer"])
            yield FinalAnswer(inner or tidy(match["answer"]), match.start(), match.end())


def _trailing(text: str) -> Iterator[FinalAnswer]:
    """What looks like an answer in the last line that holds any such thing."""
    end = len(text)
    for line in reversed(text.splitlines(keepends=True)):
        start = end - len(line)
        found = list(_maths_and_numbers(line[-MAX_ANSWER:]))
        if found:
            shift = start + max(0, len(line) - MAX_ANSWER)
            yield from (answer._replace(start=shift + answer.start, end=shift + answer.end) for answer in found)
            return
        end = start


def _maths_and_numbers(line: str) -> Iterator[FinalAnswer]:
    spans = list(_INLINE_MATHS.finditer(line))
    for match in spans:
        yield FinalAnswer(_last_side(tidy(match["answer"] or match["round"])), *match.span())
    for match in _NUMERAL.finditer(line):
        if not any(span.start() <= match.start() < span.end() for span in spans):
            yield FinalAnswer(match[0].strip(), *match.span())


def _last_maths(sentence: str) -> str | None:
    found = [match["answer"] or match["round"] for match in _INLINE_MATHS.finditer(sentence)]
    return tidy(found[-1]) if len(found) == 1 else None


def _last_side(answer: str) -> str:
    return answer.rsplit("=", 1)[-1].strip() if "=" in answer and not re.search(r"[<>]|\\[lg]e", answer) else answer


def _closing_brace(text: str, start: int) -> int | None:
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return None


def tidy(answer: str) -> str:
    """`answer` without surrounding braces, maths delimiters, bold marks, white space and final punctuation."""
    answer = _BOLD.sub(r"\1", answer.strip())
    if answer.startswith("{") and _closing_brace(answer, 0) == len(answer) - 1:
        answer = answer[1:-1]
    before = None
    while before != answer:
        before = answer
        answer = answer.strip().rstrip("。.,，；;：:!！").strip()
        for left, right in _WRAPPERS:
            if len(answer) > len(left + right) and answer.startswith(left) and answer.endswith(right):
                answer = answer[len(left) : -len(right)]
    return answer


def canonical(answer: str) -> str:
    """A form in which two spellings of one answer often agree: lower case, no spacing, text or size commands."""
    plain = _LATEX_TEXT.sub(r"\1", answer)
    plain = _SPACING.sub("", plain).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("−", "-")
    plain = plain.replace("\\$", "").replace("$", "")
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", plain).lower().strip(".。")


def as_number(answer: str) -> Rational | None:
    """The one number in `answer` if all the rest is words or units (`$18`, `每班45本`, `x = 5`); else None."""
    plain = _SPACING.sub(" ", _LATEX_TEXT.sub(r" \1 ", answer)).strip()
    plain = _ASSIGNMENT.sub("", plain).replace("\\$", " ").replace("$", " ")
    if (number := parse_rational(plain)) is not None:
        return number
    found = list(_NUMERAL.finditer(plain))
    if len(found) != 1:
        return None
    rest = plain[: found[0].start()], plain[found[0].end() :]
    return parse_rational(found[0][0]) if all(_is_unit(part) for part in rest) else None


def _is_unit(text: str) -> bool:
    """Words and currency signs only: a lone letter may be a variable, and a free-standing sign an operator."""
    return _UNIT_CHARACTERS.fullmatch(text) is not None and _SYMBOL_OR_OPERATOR.search(text) is None
