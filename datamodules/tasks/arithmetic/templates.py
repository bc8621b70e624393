"""Story templates of the arithmetic task: a question, the two steps that solve it, and the bounds of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Lena", "Max")
THINGS = ("apples", "books", "cards", "coins", "marbles", "nuts", "pens", "shells", "stamps", "toys")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a solution: `left operator right`, said in a sentence."""

    left: str
    """A number of the story by its letter, or `r`, the result of the step before."""
    operator: str
    """`+`, `-`, `*` or `/`."""
    right: str
    """Like `left`."""
    sentence: str
    """What the step finds out; `{equation}` stands where the equation goes."""


@dataclass(frozen=True, slots=True)
class Template:
    """A story with letters for its numbers."""

    name: str
    question: str
    first: Step
    second: Step
    ranges: Mapping[str, tuple[int, int]]
    """Bounds of each number of the story, both included."""


TEMPLATES = (
    Template(
        "bags",
        "{name} has {a} {things} and buys {b} bags of {c}. How many {things} now?",
        Step("b", "*", "c", "The bags hold {equation}."),
        Step("a", "+", "r", "Now {name} has {equation}."),
        {"a": (3, 30), "b": (2, 9), "c": (2, 9)},
    ),
    Template(
        "change",
        "{name} has {a} dollars and buys {b} tickets at {c} each. How much is left?",
        Step("b", "*", "c", "The tickets cost {equation}."),
        Step("a", "-", "r", "That leaves {equation}."),
        {"a": (10, 50), "b": (2, 9), "c": (2, 9)},
    ),
    Template(
        "share",
        "{name} has {a} {things}, finds {b} more and shares all among {c}. How many each?",
        Step("a", "+", "b", "In all there are {equation}."),
        Step("r", "/", "c", "Each one gets {equation}."),
        {"a": (3, 30), "b": (3, 20), "c": (2, 9)},
    ),
    Template(
        "boxes",
        "{name} has {a} {things}, loses {b} and packs the rest in boxes of {c}. How many boxes?",
        Step("a", "-", "b", "The rest is {equation}."),
        Step("r", "/", "c", "They fill {equation}."),
        {"a": (10, 50), "b": (2, 20), "c": (2, 9)},
    ),
    Template(
        "pages",
        "{name} reads {a} pages by day and {b} by night. How many in {c} days?",
        Step("a", "+", "b", "Each day makes {equation}."),
        Step("r", "*", "c", "In all {name} reads {equation}."),
        {"a": (2, 12), "b": (2, 12), "c": (2, 6)},
    ),
    Template(
        "sale",
        "A bag of {things} costs {a}, today {b} less. What does {name} pay for {c}?",
        Step("a", "-", "b", "One bag costs {equation}."),
        Step("r", "*", "c", "So {name} pays {equation}."),
        {"a": (6, 30), "b": (2, 20), "c": (2, 9)},
    ),
    Template(
        "heap",
        "{name} counts {a} {things}, adds {b} and takes {c} away. How many are left?",
        Step("a", "+", "b", "First it makes {equation}."),
        Step("r", "-", "c", "Then it makes {equation}."),
        {"a": (5, 40), "b": (3, 20), "c": (3, 30)},
    ),
    Template(
        "gifts",
        "{name} has {a} {things}, gives {b} away and loses {c}. How many are left?",
        Step("a", "-", "b", "The gift leaves {equation}."),
        Step("r", "-", "c", "The loss leaves {equation}."),
        {"a": (15, 50), "b": (3, 30), "c": (2, 20)},
    ),
    Template(
        "trees",
        "{name} plants {a} rows of {b} trees and {c} die. How many trees are left?",
        Step("a", "*", "b", "The rows have {equation}."),
        Step("r", "-", "c", "That leaves {equation}."),
        {"a": (2, 9), "b": (2, 9), "c": (2, 30)},
    ),
    Template(
        "shelves",
        "{name} has {a} shelves of {b} boxes with {c} {things} each. How many {things}?",
        Step("a", "*", "b", "The shelves have {equation}."),
        Step("r", "*", "c", "The boxes hold {equation}."),
        {"a": (2, 6), "b": (2, 6), "c": (2, 6)},
    ),
    Template(
        "packs",
        "{name} buys {a} packs of {b} {things} and gets {c} for free. How many {things}?",
        Step("a", "*", "b", "The packs hold {equation}."),
        Step("r", "+", "c", "So {name} gets {equation}."),
        {"a": (2, 9), "b": (2, 9), "c": (2, 30)},
    ),
    Template(
        "extra",
        "{b} children share {a} {things}, then each gets {c} more. How many has each?",
        Step("a", "/", "b", "The share is {equation}."),
        Step("r", "+", "c", "Then each has {equation}."),
        {"a": (6, 50), "b": (2, 9), "c": (2, 30)},
    ),
    Template(
        "times",
        "{name} has {a} {things}, a friend {b} times as many. How many together?",
        Step("a", "*", "b", "The friend has {equation}."),
        Step("a", "+", "r", "Together it is {equation}."),
        {"a": (2, 16), "b": (2, 9)},
    ),
    Template(
        "more",
        "{name} has {a} {things}, a friend {b} more than that. How many together?",
        Step("a", "+", "b", "The friend has {equation}."),
        Step("a", "+", "r", "Together it is {equation}."),
        {"a": (3, 20), "b": (2, 30)},
    ),
)
