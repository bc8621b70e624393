"""The exact judge of the arithmetic task: the answer, and each of the two steps, against the worked solution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from judges.base import Judge, Verdict

_EQUATION = re.compile(r"(?<![\d*/+=.-] )(?<!\d)(?<!\d\.)(\d{1,9}) ([+*/-]) (\d{1,9}) = (\d{1,9})(?! ?[\d*/+=.-]\d| [*/+=-])(?!\d)")
_ANSWER = re.compile(r"^#### (\d{1,9})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Equation:
    """`left operator right = result`, as it was written."""

    left: int
    operator: str
    right: int
    result: int

    @property
    def holds(self) -> bool:
        """Whether the arithmetic is right; a division with a remainder, or by zero, is not."""
        match self.operator:
            case "+":
                return self.left + self.right == self.result
            case "-":
                return self.left - self.right == self.result
            case "*":
                return self.left * self.right == self.result
            case _:
                return self.right != 0 and self.right * self.result == self.left

    @property
    def canonical(self) -> tuple[str, int, int, int]:
        """Equal for equations that say the same: the sides of + and * in ascending order."""
        left, right = (self.left, self.right) if self.operator in "-/" else sorted((self.left, self.right))
        return self.operator, left, right, self.result


@dataclass(frozen=True, slots=True)
class Work:
    """A worked solution, read."""

    equations: tuple[Equation, ...]
    answer: int | None
    """The last `#### n` that has a line to itself; None if there is none."""
    is_closed: bool
    """Exactly one answer is stated, and nothing follows it."""


class ArithmeticJudge(Judge):
    """Five points for a two-step problem, after the paper's Table 5, exact.

    | score | the answer is | and the process |
    |---|---|---|
    | 5 | right | has the two steps of the solution and nothing else |
    | 4 | right | lacks a step, repeats one, or goes on after the answer; every equation in it holds |
    | 3 | right | has an equation that does not hold |
    | 3 | wrong | has at least one of the two steps right |
    | 2 | wrong | has neither step right, but an equation that holds |
    | 1 | wrong or not stated | none of this |

    A step is right if the same numbers are combined by the same operator to the same result (`3 * 4` and `4 * 3` are the
    same), wherever it stands. 4 and 5 mean "answer correct", as in the paper; a 5 cannot be had by luck.

    `details`: `correct` (0 or 1), `steps` (share of the solution's steps that are right), `arithmetic` (share of the
    response's equations that hold; 1 if it has none).
    """

    name = "arithmetic"
    version = "1"
    scale = (1.0, 5.0)

    @override
    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one response; `answer` is the worked solution in any style, with its steps and a line `#### n`.

        Raises:
            ValueError: if `answer` does not hold a worked solution.
        """
        gold = read_work(answer or "")
        if gold.answer is None or not gold.equations:
            raise ValueError(
                f"expected a worked solution with equations and a line '#### <answer>' as the gold answer, got {answer!r}. "
                "Pools made by the arithmetic task have it in `answer`."
            )
        work = read_work(response)
        steps = _share_found(gold.equations, work.equations)
        is_correct = work.answer == gold.answer
        score, reason = _score_correct(work, gold, steps) if is_correct else _score_wrong(work, steps)
        held = [equation.holds for equation in work.equations]
        details = {"correct": float(is_correct), "steps": steps, "arithmetic": sum(held) / len(held) if held else 1.0}
        stated = "none" if work.answer is None else str(work.answer)
        return Verdict(score, f"answer {stated}, gold {gold.answer}; {reason}", details=details)


def read_work(text: str) -> Work:
    """The equations of a response and the answer it states; never fails."""
    equations = tuple(
        Equation(int(left), operator, int(right), int(result)) for left, operator, right, result in _EQUATION.findall(text)
    )
    answers = list(_ANSWER.finditer(text))
    is_closed = len(answers) == 1 and not text[answers[0].end() :].strip()
    return Work(equations, int(answers[-1][1]) if answers else None, is_closed)


def _share_found(gold: Sequence[Equation], written: Sequence[Equation]) -> float:
    found = {equation.canonical for equation in written}
    return sum(equation.canonical in found for equation in gold) / len(gold)


def _score_correct(work: Work, gold: Work, steps: float) -> tuple[float, str]:
    wrong = sum(not equation.holds for equation in work.equations)
    if wrong:
        return 3.0, f"{wrong} of {len(work.equations)} equations do not hold"
    if steps < 1:
        return 4.0, f"{steps:.0%} of the steps are there"
    if len(work.equations) > len(gold.equations) or not work.is_closed:
        return 4.0, "redundant"
    return 5.0, "every step is right"


def _score_wrong(work: Work, steps: float) -> tuple[float, str]:
    if steps > 0:
        return 3.0, f"{steps:.0%} of the steps are right"
    if any(equation.holds for equation in work.equations):
        return 2.0, "no step is right, but an equation holds"
    return 1.0, "nothing is right"
