import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from judges.maths import MathsJudge
from judges.solutions.comparer import _Worker

PROMPT = "Janet has 16 eggs, eats 3, bakes with 4 and sells the rest for 2 dollars each. What does she make?"
SOLUTION = "16 - 3 = 13 eggs.\n13 - 4 = 9 eggs.\n9 * 2 = 18 dollars.\n#### 18"


@pytest.fixture(scope="module")
def judge() -> Iterator[MathsJudge]:
    with MathsJudge(timeout=60.0) as judge:  # these comparisons end by themselves, on a busy machine late
        yield judge


@pytest.mark.parametrize(
    ("response", "score", "reason"),
    [
        ("She has 16 - 3 - 4 = 9 eggs, so 9 * 2 = 18. The answer is 18.", 5, "process present"),
        ("18", 4, "no process"),
        ("She sells nine eggs at two dollars. " * 5 + "#### 18", 4, "80% of the sentences repeat"),
        ("9 * 2 = 18\n#### 18\n" + "Let me now say something else about hens. " * 6, 4, "redundant"),
        ("She has 16 - 3 = 12 eggs and 18 in the end. #### 18", 3, "1 of 1 arithmetic equations do not hold"),
        ("16 - 3 = 13 and 13 - 4 = 9, 9 * 3 = 27. #### 27", 3, "100% of the reference"),
        ("16 - 3 = 13, 13 * 2 = 26\n#### 26", 3, "50% of the reference"),
        ("I guess #### 5", 1, "0% of the reference"),
        ("I do not know.", 1, "no final answer stated"),
    ],
)
def test_five_points(judge: MathsJudge, response: str, score: int, reason: str) -> None:
    verdict = judge.judge(PROMPT, response, SOLUTION)
    assert verdict.score == score
    assert reason in verdict.reason
    assert verdict.details["correct"] == float(score >= 4 or response.endswith("#### 18"))


@pytest.mark.parametrize(("response", "score"), [("3 * 4 = 12, so 12 * 2 = 24. #### 24", 2), ("3 * 4 = 13. #### 24", 1)])
def test_without_a_reference_process_only_arithmetic_speaks_for_a_wrong_answer(
    judge: MathsJudge, response: str, score: int
) -> None:
    assert judge.judge(PROMPT, response, "18").score == score


@pytest.mark.parametrize(
    ("response", "gold", "correct"),
    [
        (r"\boxed{(x+1)^2}", "x^2+2x+1", True),
        (r"\boxed{(x+1)^2}", "x^2+2x+2", False),
        (r"$\frac{\sqrt{2}}{2}$", r"\frac{1}{\sqrt{2}}", True),
        (r"\boxed{\{1, 2\}}", r"\{2, 1\}", True),
        (r"\boxed{[1, 2)}", r"[1, 2]", False),
        (r"\boxed{\text{Evelyn}}", "Evelyn", True),
        (r"\boxed{52_9}", "52_8", False),
        (r"\boxed{101_{2}}", "101_2", True),
    ],
)
def test_answers_are_compared_as_mathematics(judge: MathsJudge, response: str, gold: str, correct: bool) -> None:
    assert judge.judge("", response, gold).details["correct"] == correct


def test_a_hostile_expression_is_wrong_and_the_next_one_is_served() -> None:
    # The first needs more memory than there is, the second takes time exponential in its depth: no machine is fast enough.
    with MathsJudge(timeout=0.5) as judge:
        for expression in ("9^{9^{9^{9^{9}}}}", "(" * 400 + "3" + ")" * 400):
            verdict = judge.judge("", f"\\boxed{{{expression}}}", "x+3")
            assert verdict.score == 1
            assert "not comparable within the limits" in verdict.reason
        judge._comparer.timeout = 60.0
        assert judge.judge("", r"\boxed{3+x}", "x+3").details["correct"] == 1


def test_the_successor_of_a_worker_that_takes_too_long_starts_before_the_worker_is_ended() -> None:
    """So that the next comparison does not pay for its imports; a quick one starts none."""
    with MathsJudge(timeout=60.0) as judge:
        comparer = judge._comparer
        assert comparer.is_same("x+3", "3+x")
        with comparer._borrow() as worker:
            before = worker.successor
            assert before is None
            assert worker.ask("(" * 400 + "3" + ")" * 400, "x", 0.2) is None
            successor = worker.successor
        with comparer._borrow() as worker:
            assert worker is successor
            assert worker.ask("x+3", "3+x", 60.0)


@pytest.mark.parametrize("answer", ["7" * 100_000 + "x", "x+3" + "{}" * 1000])
def test_a_boxed_answer_that_is_too_long_is_never_compared_nor_passed_over(answer: str) -> None:
    with MathsJudge(timeout=60.0) as judge:
        judge._comparer._borrow = _refuse  # type: ignore[method-assign,assignment]
        verdict = judge.judge("", f"The answer is x+3, I mean \\boxed{{{answer}}}", "x+3")
    assert verdict.score == 1
    assert "not comparable within the limits" in verdict.reason


def _refuse() -> AbstractContextManager[_Worker]:
    raise AssertionError("a comparison was started")


def test_threads_share_one_judge(judge: MathsJudge) -> None:
    with ThreadPoolExecutor(4) as pool:
        correct = list(pool.map(lambda n: judge.judge("", f"\\boxed{{x+{n}}}", f"{n % 3}+x").details["correct"], range(12)))
    assert correct == [float(n < 3) for n in range(12)]


def test_judge_many_keeps_the_order() -> None:
    with MathsJudge(60.0, workers=2) as judge:
        verdicts = judge.judge_many([""] * 4, [r"\boxed{x\cdot 2}", r"\boxed{2x}", "A: 3", ""], ["2x", "3x", "3", "x"])
    assert [verdict.details["correct"] for verdict in verdicts] == [1.0, 0.0, 1.0, 0.0]


def test_a_copy_sent_to_another_process_has_its_own_workers(judge: MathsJudge) -> None:
    judge.judge("", r"\boxed{x+1}", "1+x")
    with pickle.loads(pickle.dumps(judge)) as copy:
        assert copy.judge("", r"\boxed{x+1}", "1+x").details["correct"] == 1
    assert judge.judge("", r"\boxed{x+1}", "1+x").details["correct"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork cannot fork")
def test_a_forked_child_has_its_own_workers(judge: MathsJudge) -> None:
    judge.judge("", r"\boxed{x+1}", "1+x")
    comparer = judge._comparer
    owner, comparer._owner = comparer._owner, -1  # what a child finds after a fork
    try:
        assert judge.judge("", r"\boxed{x+2}", "2+x").details["correct"] == 1
        assert comparer._owner == os.getpid() == owner
    finally:
        comparer._owner = owner


def test_a_gold_is_needed(judge: MathsJudge) -> None:
    with pytest.raises(ValueError, match="expected a gold answer"):
        judge.judge(PROMPT, "18", None)


@pytest.mark.parametrize(("timeout", "workers"), [(0.0, 1), (1.0, 0)])
def test_impossible_limits_are_refused(timeout: float, workers: int) -> None:
    with pytest.raises(ValueError, match="expected timeout > 0 and workers >= 1"):
        MathsJudge(timeout, workers)
