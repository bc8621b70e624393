import math

import pytest

from judges.base import Judge, Verdict, zip_items


class LengthJudge(Judge):
    name = "length"
    version = "1"
    scale = (0.0, 10.0)

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        return Verdict(float(len(response)), f"{prompt}|{answer}")


def test_judge_many_defaults_to_judging_one_by_one_in_order() -> None:
    verdicts = LengthJudge().judge_many(["p", "q"], ["a", "abc"], [None, "g"])
    assert [(verdict.score, verdict.reason) for verdict in verdicts] == [(1.0, "p|None"), (3.0, "q|g")]


def test_sequences_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        zip_items(["p", "q"], ["a"], None)


@pytest.mark.parametrize(("score", "unit"), [(0.0, 0.0), (2.5, 0.25), (10.0, 1.0)])
def test_bounded_scores_map_linearly_to_the_unit_interval(score: float, unit: float) -> None:
    assert LengthJudge().to_unit(score) == unit


@pytest.mark.parametrize(("score", "unit"), [(0.0, 0.5), (math.log(3), 0.75), (-math.log(3), 0.25), (-2000.0, 0.0), (2000.0, 1.0)])
def test_unbounded_scores_map_through_the_logistic_function(score: float, unit: float) -> None:
    class Unbounded(LengthJudge):
        scale = (-math.inf, math.inf)

    assert Unbounded().to_unit(score) == pytest.approx(unit, abs=1e-12)


def test_a_judge_without_provenance_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="to define version, scale"):

        class Nameless(Judge):
            name = "x"

            def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
                return Verdict(0.0, "")


@pytest.mark.parametrize(("score", "cost"), [(math.nan, 0.0), (math.inf, 0.0), (1.0, -0.1), (1.0, math.nan)])
def test_a_verdict_is_a_number_at_a_price(score: float, cost: float) -> None:
    with pytest.raises(ValueError, match="expected a numeric score and a cost >= 0"):
        Verdict(score, "x", cost)
