from collections.abc import Sequence

import pytest

from judges.base import Judge, JudgeError, Verdict, zip_items
from judges.slogan import SloganJudge, WordLimits, count_words, read_limits


class ContentJudge(Judge):
    """Half marks for everything, at a price; fails on `bad`."""

    name = "half"
    version = "7"
    scale = (1.0, 5.0)

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        if response == "bad":
            raise JudgeError("no verdict", {}, {0: "because"})
        return Verdict(3.0, f"fair, reference {answer}", 0.25)

    def judge_many(
        self, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        bad = [i for i, response in enumerate(responses) if response == "bad"]
        done = {i: self.judge(*item) for i, item in enumerate(zip_items(prompts, responses, answers)) if i not in bad}
        if bad:
            raise JudgeError(f"{len(bad)} failed", done, dict.fromkeys(bad, "because"))
        return list(done.values())


@pytest.mark.parametrize(
    ("prompt", "limits"),
    [
        ("Write a slogan of 5-8 words.", (5, 8)),
        ("between 3 and 6 words", (3, 6)),
        ("写一句广告语，8到12个字", (8, 12)),
        ("at most 6 words", (2, 6)),
        ("不超过10个字", (2, 10)),
        ("10字以内", (2, 10)),
        ("no more than 1 word", (1, 1)),
        ("at least 4 words", (4, 10)),
        ("at least 14 words", (14, 14)),
        ("at least 3 words, up to 5 words", (3, 5)),
        ("a 7-word slogan", (7, 7)),
        ("Write a slogan for a cafe.", (2, 10)),
    ],
)
def test_limits_are_read_from_the_prompt(prompt: str, limits: tuple[int, int]) -> None:
    assert read_limits(prompt, WordLimits(2, 10)) == limits


@pytest.mark.parametrize(
    ("response", "count"),
    [("Just do it.", 3), ("Slogan: The world's best e-bikes!", 4), ("广告语：一切皆有可能", 6), ("AI 让生活更好", 6), ("", 0)],
)
def test_words_are_counted(response: str, count: int) -> None:
    assert count_words(response) == count


@pytest.mark.parametrize(("count", "grade"), [(0, 0.0), (2, 0.5), (4, 1.0), (8, 1.0), (10, 0.75), (16, 0.0), (99, 0.0)])
def test_distance_from_the_limits_costs_its_share(count: int, grade: float) -> None:
    assert WordLimits(4, 8).grade(count) == grade


def test_content_is_judged_by_another() -> None:
    judge = SloganJudge(ContentJudge())
    verdict = judge.judge("at most 2 words", "Just do it", "Impossible is nothing")
    assert verdict.details == {"word_count": 0.5, "content": 0.5}
    assert (verdict.score, verdict.cost) == (0.5, 0.25)
    assert verdict.reason == "3 words of 2-2; content: fair, reference Impossible is nothing"
    assert (judge.name, judge.version) == ("slogan+half", "1+7")


def test_without_a_content_judge_only_words_count() -> None:
    verdicts = SloganJudge().judge_many(["at most 2 words"] * 2, ["Just do it", "Do it"])
    assert [verdict.details for verdict in verdicts] == [{"word_count": 0.5}, {"word_count": 1.0}]


def test_a_failure_of_the_content_judge_keeps_the_others() -> None:
    with pytest.raises(JudgeError, match="1 failed") as caught:
        SloganJudge(ContentJudge()).judge_many(["p"] * 3, ["Do it", "bad", "Just do it"])
    assert {i: verdict.score for i, verdict in caught.value.verdicts.items()} == {0: 0.75, 2: 0.75}
    assert caught.value.failures == {1: "because"}


def test_crossed_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="got 5 and 4"):
        SloganJudge(min_words=5, max_words=4)
