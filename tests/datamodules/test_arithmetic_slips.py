from __future__ import annotations

import pytest

from datamodules.tasks.arithmetic.problems import generate
from datamodules.tasks.arithmetic.slips import SLIP, slips
from datamodules.tasks.arithmetic.task import ArithmeticTask
from judges.arithmetic import ArithmeticJudge, read_work

COUNT = 8


def test_the_judge_scores_every_slip_below_the_solution() -> None:
    judge, scores, hands = ArithmeticJudge(), set(), set()
    for problem in generate("train", 1000, 3):
        for text in slips(problem, COUNT, seed=0):
            verdict = judge.judge(problem.prompt, text, problem.terse)
            assert verdict.score < 5, text
            scores.add(verdict.score)
            hands.add(text[0].isdigit())
    assert scores >= {1.0, 2.0, 3.0}
    assert hands == {True, False}


def test_what_follows_from_a_wrong_result_is_computed_from_it() -> None:
    """Well formed, the right numbers: nothing but the results tells a slip from the solution."""
    carried = 0
    for problem in generate("train", 300, 4):
        gold = read_work(problem.terse)
        for text in slips(problem, COUNT, seed=0):
            work = read_work(text)
            first, second = work.equations
            assert work.is_closed
            assert work.answer == second.result
            assert [first.left, first.right] == [gold.equations[0].left, gold.equations[0].right]
            assert [first.operator, second.operator] == [equation.operator for equation in gold.equations]
            assert first.result in (second.left, second.right)
            assert all(1 <= equation.result <= 99 for equation in work.equations)
            carried += not first.holds and second.holds
    assert carried > 300


def test_slips_are_the_same_every_time_and_none_comes_twice() -> None:
    problem = next(generate("train", 1, 0))
    first = list(slips(problem, COUNT, seed=0))
    assert first == list(slips(problem, COUNT, seed=0))
    assert len(set(first)) == COUNT
    assert first != list(slips(problem, COUNT, seed=1))


def test_the_task_makes_none_unless_asked() -> None:
    assert all(item.others == () for item in ArithmeticTask(num_train=20).items("train"))
    items = list(ArithmeticTask(num_train=20, num_slips=3).items("train"))
    assert all([name for name, _ in item.others] == [SLIP] * 3 for item in items)
    assert [item.solution for item in items] == [item.solution for item in ArithmeticTask(num_train=20).items("train")]


def test_a_negative_number_of_slips_is_refused() -> None:
    with pytest.raises(ValueError, match="num_slips >= 0"):
        ArithmeticTask(num_slips=-1)
