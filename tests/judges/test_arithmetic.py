from __future__ import annotations

import pytest

from judges.arithmetic import ArithmeticJudge, Equation, read_work

GOLD = "3 * 4 = 12\n14 + 12 = 26\n#### 26"
WORDED = "The bags hold {}.\nNow Anna has {}.\n#### {}"


@pytest.mark.parametrize(
    ("response", "score", "correct", "steps"),
    [
        (GOLD, 5, 1, 1),
        (WORDED.format("3 * 4 = 12", "14 + 12 = 26", 26), 5, 1, 1),
        (WORDED.format("4 * 3 = 12", "12 + 14 = 26", 26), 5, 1, 1),  # sides swapped
        ("#### 26", 4, 1, 0),  # no process
        ("14 + 12 = 26\n#### 26", 4, 1, 0.5),  # a step is missing
        (GOLD + "\n#### 26", 4, 1, 1),  # said twice
        (GOLD + "\nSo 26 it is.", 4, 1, 1),  # goes on
        (GOLD.replace("\n####", "\n1 + 1 = 2\n####"), 4, 1, 1),  # a step too many
        ("3 * 4 = 13\n14 + 12 = 26\n#### 26", 3, 1, 0.5),  # right by luck
        ("3 * 4 = 12\n14 + 12 = 36\n#### 36", 3, 0, 0.5),  # first step right
        ("3 * 4 = 12\n14 + 12 = 26\n#### 62", 3, 0, 1),  # copied wrong
        ("3 + 4 = 7\n14 + 7 = 21\n#### 21", 2, 0, 0),  # arithmetic right, steps wrong
        ("3 * 4 = 14\n14 + 14 = 29\n#### 29", 1, 0, 0),
        ("4 - 3 = 12\n14 + 12 = 27\n#### 27", 1, 0, 0),
        ("3 * 4 = 12\n14 + 12 = 26", 3, 0, 1),  # no answer stated
        ("3 * 4 = 12\n14 + 12 = 26\n####26", 3, 0, 1),  # not in the form of an answer
        ("", 1, 0, 0),
        ("#### \n= 4 *\n3 * = 12 ####", 1, 0, 0),
        ("#### 2\n" + GOLD, 4, 1, 1),  # the last answer counts, but it is not one answer
    ],
)
def test_scores(response: str, score: float, correct: float, steps: float) -> None:
    verdict = ArithmeticJudge().judge("How many?", response, GOLD)
    assert verdict.score == score
    assert verdict.details["correct"] == correct
    assert verdict.details["steps"] == steps


@pytest.mark.parametrize("gold", [None, "", "26", "#### 26", "3 * 4 = 12"])
def test_a_gold_answer_without_a_worked_solution_is_an_error(gold: str | None) -> None:
    with pytest.raises(ValueError, match="worked solution"):
        ArithmeticJudge().judge("How many?", GOLD, gold)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12 / 4 = 3.", [Equation(12, "/", 4, 3)]),
        ("1 + 2 + 3 = 6", []),  # a part of a longer expression says something else
        ("1 + 2 = 3 + 4", []),
        ("2 = 1 + 1", []),
        ("1.5 + 2 = 3", []),
        ("x12 - 3 = 9x", [Equation(12, "-", 3, 9)]),
        ("1234567890 + 1 = 1", []),
    ],
)
def test_equations_found(text: str, found: list[Equation]) -> None:
    assert list(read_work(text).equations) == found


@pytest.mark.parametrize(
    ("equation", "holds"),
    [
        (Equation(7, "/", 2, 3), False),
        (Equation(7, "/", 0, 0), False),
        (Equation(8, "/", 2, 4), True),
        (Equation(3, "-", 5, 2), False),
        (Equation(9, "*", 9, 81), True),
    ],
)
def test_exact_arithmetic(equation: Equation, holds: bool) -> None:
    assert equation.holds is holds
