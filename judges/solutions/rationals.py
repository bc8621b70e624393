"""Exact rational numbers in all common spellings, and arithmetic on them whose time is bounded."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 200  # of an expression: bounds the work and the nesting, so that no response can stall its judge
MAX_EXPONENT = 64
MAX_DIGITS = 40  # of a single number; longer ones are runaway repetition, never an answer

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(rf"(?<![\d.,])(?:{_DECIMAL})(?!\d)")
"""An unsigned number with optional thousands commas and decimals, wherever it stands."""

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_FRACTION = re.compile(rf"(?:(?P<whole>{_DIGITS})(?:\s*\(|\s)\s*)?(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>{_DECIMAL})\s*\)?")
_LATEX_FRACTION = re.compile(r"(?P<whole>\d+)?\s*\\[dt]?frac\s*\{\s*(?P<top>-?\d+)\s*\}\s*\{\s*(?P<bottom>-?\d+)\s*\}")
_SHORT_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?P<top>\d)\s*(?P<bottom>\d)")


@dataclass(frozen=True)
class Rational:
    """A number as it was written."""

    value: Fraction
    """Exact; a percentage is stored as the number before its sign."""
    is_percent: bool = False
    is_decimal: bool = False
    """Written with a decimal point, so it may have been rounded."""

    def equals(self, other: Rational) -> bool:
        """Equal values; decimals to 6 places; a percentage also as its share (25% is 25 and 0.25), as math-verify has it."""
        tolerance = Fraction(1, 2_000_000) if self.is_decimal or other.is_decimal else Fraction(0)
        values = [(self.value, other.value)]
        if self.is_percent != other.is_percent:
            values.append((self._share(), other._share()))
        return any(abs(a - b) <= tolerance for a, b in values)

    def _share(self) -> Fraction:
        return self.value / 100 if self.is_percent else self.value


def parse_rational(text: str) -> Rational | None:
    r"""The number that `text` is, all of it: `-1,234.5`, `3/4`, `(3/4)`, `1(3/4)`, `\frac{3}{4}`, `25%`; else None."""
    text = text.strip()
    if not text or len(text) > MAX_CHARACTERS:
        return None
    negative = text[0] in "-−" and len(text) > 1
    body = text[1:].strip() if text[0] in "-−+" else text
    is_percent = body.endswith("%")
    body = body.rstrip("%").rstrip("\\").strip()
    value = _unsigned(body)
    if value is None:
        return None
    return Rational(-value if negative else value, is_percent, "." in body)


def _unsigned(body: str) -> Fraction | None:
    if len(body) > 1 and body[0] == "(" and body[-1] == ")" and body[1:-1].count("(") == body[1:-1].count(")") == 0:
        body = body[1:-1].strip()
    if NUMBER.fullmatch(body) and len(body) <= MAX_DIGITS:
        return Fraction(body.replace(",", ""))
    for pattern in (_FRACTION, _LATEX_FRACTION, _SHORT_LATEX_FRACTION):
        if match := pattern.fullmatch(body):
            return _mixed(match.groupdict())
    return None


def _mixed(parts: dict[str, str | None]) -> Fraction | None:
    whole, top, bottom = (Fraction((parts.get(key) or "0").replace(",", "")) for key in ("whole", "top", "bottom"))
    return whole + top / bottom if bottom else None


def evaluate(expression: str) -> Fraction | None:
    """The exact value of an expression of numbers, `+ - * / ** ( )` and percent signs; None if it is no such thing or too big.

    Bounds: 200 characters, numbers of 40 digits, integer exponents of at most 64.
    """
    if len(expression) > MAX_CHARACTERS:
        return None
    source = _THOUSANDS.sub("", expression)
    source = re.sub(rf"({_DECIMAL})\s*%", r"(\1/100)", source)
    try:
        tree = ast.parse(re.sub(r"(?<![\d.])0+(?=\d)", "", source.strip()), mode="eval")
        return _evaluate_node(tree.body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _evaluate_node(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value) if len(text := repr(value)) <= MAX_DIGITS and not isinstance(value, bool):
            return Fraction(text)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate_node(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_evaluate_node(left), _evaluate_node(right))
        case ast.BinOp(left=left, op=op, right=right):
            return _combine(op, _evaluate_node(left), _evaluate_node(right))
    raise ValueError("not arithmetic")


def _combine(op: ast.operator, left: Fraction, right: Fraction) -> Fraction:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
    raise ValueError("not arithmetic")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT or base.numerator.bit_length() > MAX_EXPONENT:
        raise ValueError("exponent out of range")
    return Fraction(base ** int(exponent))
