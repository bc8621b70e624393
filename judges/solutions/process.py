"""Measures the worked process by rules: whether there is one, whether its arithmetic holds, whether it repeats itself.

None of this understands the reasoning. The signals are counts and shares; `judges.maths` documents which score they lead to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from judges.solutions.arithmetic import check_equations
from judges.solutions.rationals import MAX_CHARACTERS, NUMBER, parse_rational

MIN_WORDS = 12  # words (or 2 Chinese characters each) outside the answer that count as a process when no equation is written
MIN_REPEATABLE = 8  # characters of a sentence; shorter ones ("So") repeat in honest text too
MIN_SENTENCES = 4  # below this a repetition is a figure of speech

_RELATION = re.compile(r"=|≈|≡|[<>]|\\(?:equiv|approx|le|ge|leq|geq|implies|Rightarrow|frac|times|cdot)\b")
_WORD = re.compile(r"[A-Za-z]+|\d+")
_HAN = re.compile(r"[一-鿿]")
_SENTENCE_END = re.compile(r"[.。!！?？;；](?:\s|$)|[。！？；]|\n")


@dataclass(frozen=True)
class ProcessSignals:
    """What rules can tell of a worked process."""

    is_present: bool
    """An equation or at least a dozen words stand outside the statement of the answer."""
    num_checked: int
    """Arithmetic equations that could be evaluated exactly."""
    num_right: int
    """Those of them that hold, up to the rounding they were written with."""
    length: int
    """Characters."""
    repeated_share: float
    """Share of sentences, in [0, 1], that were said before in the same words."""
    length_ratio: float | None
    """Length against the reference solution, in characters; None if the reference has no process."""
    coverage: float | None
    """Share of the reference's intermediate results, in [0, 1], that appear; None if it has none that are not in the prompt."""

    @property
    def num_wrong(self) -> int:
        """Arithmetic equations that do not hold."""
        return self.num_checked - self.num_right


def measure_process(process: str, prompt: str, reference: str | None, gold: str) -> ProcessSignals:
    """Signals of one response.

    Args:
        process: The response without the statement of its final answer.
        prompt: The problem; numbers it gives are not results.
        reference: A worked solution, if there is one.
        gold: The gold answer, which is not an intermediate result either.
    """
    checked = list(check_equations(process))
    return ProcessSignals(
        is_present=has_process(process),
        num_checked=len(checked),
        num_right=sum(checked),
        length=len(process),
        repeated_share=repeated_share(process),
        length_ratio=len(process) / len(reference) if reference and has_process(reference) else None,
        coverage=_coverage(process, prompt, reference, gold) if reference else None,
    )


def has_process(text: str) -> bool:
    """Whether `text` holds an equation or enough words to be an argument."""
    words = len(_WORD.findall(text)) + len(_HAN.findall(text)) // 2
    return (_RELATION.search(text) is not None and words >= 2) or words >= MIN_WORDS


def repeated_share(text: str) -> float:
    """Share of the sentences of `text` that repeat an earlier one, in [0, 1]; 0 for fewer than four sentences."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text)]
    sentences = [sentence for sentence in sentences if len(sentence) >= MIN_REPEATABLE]
    return 1 - len(set(sentences)) / len(sentences) if len(sentences) >= MIN_SENTENCES else 0.0


def _coverage(process: str, prompt: str, reference: str, gold: str) -> float | None:
    wanted = _results(reference) - _numbers(prompt) - _numbers(gold)
    return len(wanted & _numbers(process)) / len(wanted) if wanted else None


def _results(solution: str) -> set[Fraction]:
    """Numbers that stand right of an equals sign."""
    return {number for side in solution.split("=")[1:] for number in _numbers(side.lstrip(" $\\")[:20], first_only=True)}


def _numbers(text: str, first_only: bool = False) -> set[Fraction]:
    matches = NUMBER.findall(text)
    parsed = (parse_rational(number) for number in (matches[:1] if first_only else matches) if len(number) <= MAX_CHARACTERS)
    return {number.value for number in parsed if number is not None}
