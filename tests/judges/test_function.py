import pytest

from judges.base import JudgeError, Verdict
from judges.function import CallableJudge

HERE = "tests.judges.test_function"


def plain(prompt: str, response: str, answer: str | None) -> float:
    return len(response) / 10


def reasoned(prompt: str, response: str, answer: str | None) -> tuple[float, str]:
    return 0.5, f"{prompt}|{response}|{answer}"


def full(prompt: str, response: str, answer: str | None) -> Verdict:
    return Verdict(1.0, "all", 0.1, {"style": 0.3})


def broken(prompt: str, response: str, answer: str | None) -> float:
    raise KeyError("colour")


def test_each_kind_of_result_becomes_a_verdict() -> None:
    assert CallableJudge(f"{HERE}.plain").judge("p", "abc").score == 0.3
    assert CallableJudge(f"{HERE}.reasoned").judge("p", "r", "a") == Verdict(0.5, "p|r|a")
    assert CallableJudge(f"{HERE}.full").judge("p", "r").details == {"style": 0.3}


def test_the_path_is_the_provenance() -> None:
    judge = CallableJudge(f"{HERE}.plain", 0, 5, version="3")
    assert (judge.name, judge.version, judge.scale) == (f"callable:{HERE}.plain", "3", (0, 5))


@pytest.mark.parametrize("path", ["nothing.here", f"{HERE}.missing", "noduleonly", ""])
def test_a_wrong_path_is_named(path: str) -> None:
    with pytest.raises(ValueError, match="expected the dotted path of a function"):
        CallableJudge(path)


def test_a_path_to_something_else_is_named() -> None:
    with pytest.raises(ValueError, match="to be callable, got str"):
        CallableJudge(f"{HERE}.HERE")


def test_failures_are_no_verdicts() -> None:
    with pytest.raises(JudgeError, match=r"callable:tests\.judges\.test_function\.broken failed with KeyError: 'colour'"):
        CallableJudge(f"{HERE}.broken").judge("p", "r")
    with pytest.raises(JudgeError, match=r"a score in \[0\.0, 1\.0\], got 2\.0"):
        CallableJudge(f"{HERE}.plain").judge("p", "x" * 20)


def test_an_empty_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="min_score < max_score, got 1 and 1"):
        CallableJudge(f"{HERE}.plain", 1, 1)
