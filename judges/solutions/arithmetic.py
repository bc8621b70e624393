"""Finds the arithmetic equations of a text and checks whether they hold.

Only chains of plain numbers are checked (`3 * 4 = 12 = 6 + 6`, in ASCII, LaTeX or Chinese notation), and only where the text
around them shows that they are not part of something longer: a missed equation costs nothing, a false alarm two points.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from fractions import Fraction

from judges.solutions.rationals import evaluate

_CALCULATOR_MARK = re.compile(r"<<[^<>\n]*>>")  # GSM8K repeats the equation in the middle of itself
_MODULAR = re.compile(r"\bmod\b|\\[bp]?mod\b|\\equiv|≡", re.IGNORECASE)
_NOTATIONS = (
    (re.compile(r"\\[,!;: ]|\\\$|\$|\\left|\\right"), ""),
    (re.compile(r"\\times\b|\\cdot\b(?!s)|×|·|(?<=[\d)])\s*[xX]\s*(?=[\d(])"), "*"),
    (re.compile(r"\\div\b|÷"), "/"),
    (re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}|\\[dt]?frac\s*(\d)\s*(\d)"), r"(\1\3/\2\4)"),
    (re.compile(r"\^\{(\d+)\}"), r"^\1"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"\\%"), "%"),
)
_TERM = r"(?:[\d.()+\-*/%^ ]|,(?=\d{3}(?!\d)))"
_CHAIN = re.compile(rf"[(\d.]{_TERM}{{1,120}}(?:={_TERM}{{1,120}}){{1,4}}")
_OPEN_BEFORE = re.compile(
    r"(?:[+\-*/^_|:)}\]\[{\\]|(?<![A-Za-z])[A-Za-z]|[A-Za-z_.,](?=$)|\b(?:and|by|of|over|times|plus|minus|to)\s)\s*$"
)
_OPEN_AFTER = re.compile(r"\s*(?:[=^_|:{}\\\[<>≈…!+\-*/]|\.\.|\(?\s*mod|[xX]\b)|[A-Za-z]")
_OPERATOR = re.compile(r"[\d)%]\s*[+\-*/^]")
_TWO_SLASHES = re.compile(r"/[^()]*/")


def check_equations(text: str) -> Iterator[bool]:
    """Whether it holds, for each equation of plain numbers with an operator; everything else is passed over."""
    if _MODULAR.search(text):
        return
    plain = _CALCULATOR_MARK.sub("", text)
    for pattern, replacement in _NOTATIONS:
        plain = pattern.sub(replacement, plain)
    for match in _CHAIN.finditer(plain):
        chain = match[0].rstrip(" ,")
        before = plain[max(0, match.start() - 20) : match.start()]
        if not _OPEN_BEFORE.search(before) and not _OPEN_AFTER.match(plain, match.start() + len(chain)):
            yield from _check_chain(chain)


def _check_chain(chain: str) -> Iterator[bool]:
    sides = [side.strip().rstrip(" .,(") for side in chain.split("=")]
    for position, (left, right) in enumerate(itertools.pairwise(sides)):
        if _OPERATOR.search(left):
            yield from _check_sides(left, right)
        elif position and _OPERATOR.search(right):  # a lone number at the start may end an unread expression
            yield from _check_sides(right, left)


def _check_sides(computed: str, written: str) -> Iterator[bool]:
    if _TWO_SLASHES.search(computed):  # `2/3/4` is read both ways
        return
    left, right = evaluate(computed.replace("^", "**")), evaluate(written.replace("^", "**"))
    if left is not None and right is not None:
        yield holds(left, right, written)


def holds(left: Fraction, right: Fraction, written: str) -> bool:
    """Whether two sides agree: exactly for a whole left side, else within a unit of the last place written or one percent.

    Args:
        left: Exact value of the left side.
        right: Exact value of the right side.
        written: The right side as it stands: its decimals tell the rounding, and a percent sign permits 100 times the left.
    """
    if "%" in written and holds(left, right * 100, written.replace("%", "")):
        return True
    if left.denominator == 1:
        return left == right
    decimals = len(written.rsplit(".", 1)[1].rstrip("%) ")) if "." in written else 0
    return abs(left - right) <= max(Fraction(1, 10 ** min(decimals, 12)), abs(right) / 100)
