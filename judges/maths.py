"""The maths judge: an exact check of the answer, rules for the process, and the paper's five points."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from judges.base import Judge, Verdict, zip_items
from judges.solutions.answers import find_answer, gold_answer
from judges.solutions.comparer import SymbolicComparer
from judges.solutions.equivalence import same_answer
from judges.solutions.process import ProcessSignals, measure_process

MAX_REPEATED_SHARE = 0.3  # of sentences said twice
MAX_LENGTH_RATIO = 4.0  # against the reference solution
MIN_REDUNDANT_LENGTH = 600  # characters; a short process is never called redundant for its length
MAX_TRAILING_LENGTH = 200  # characters that may follow the answer (a unit, a closing sentence)


class MathsJudge(Judge):
    """Five points for a maths answer, after the paper's Table 5, by rules alone.

    | score | the answer is | and the process |
    |---|---|---|
    | 5 | right | is there, its arithmetic holds, it is not redundant |
    | 4 | right | is missing, or redundant (see below) |
    | 3 | right | has an arithmetic equation that does not hold |
    | 3 | wrong | reaches at least half of the reference's intermediate results |
    | 2 | wrong | reaches some of them; without a reference process: has arithmetic, and most of it holds |
    | 1 | wrong or not stated | none of this |

    Redundant: 30% of the sentences repeat earlier ones; or it is 4 times as long as the reference solution and over 600
    characters; or it goes on for more than 200 characters after stating the answer. The rules see arithmetic and repetition,
    not reasoning: a right answer reached by a wrong argument gets a 5 here. So 4 and 5 mean "answer correct", as in the paper,
    but so does a 3 with `correct` 1 in its details; take the accuracy from `correct`.

    `details`, all in [0, 1]: `correct`, `process_present`, `arithmetic` (share of equations that hold; 1 if there are none),
    `repeated_share`, and `coverage` (of the reference's intermediate results) if a reference process is known.

    Args:
        timeout: Seconds one symbolic comparison may take, hence the most that a hostile expression can cost; one that takes
            longer counts as wrong.
        workers: Symbolic comparisons at once in `judge_many`, each in a process of its own.
    """

    name = "maths"
    version = "1"
    scale = (1.0, 5.0)

    def __init__(self, timeout: float = 5.0, workers: int = 1) -> None:
        self.timeout = timeout
        self._comparer = SymbolicComparer(timeout, workers)

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one response; `answer` is a final answer or a worked solution that states one.

        Raises:
            ValueError: without a gold answer.
            JudgeError: if the comparison process cannot be started.
        """
        if answer is None or not answer.strip():
            raise ValueError(
                "expected a gold answer for the maths judge, got none. Give `answer` (a final answer or a worked solution)."
            )
        gold, found = gold_answer(answer), find_answer(response)
        same = same_answer(gold, found.text, self._comparer) if found else False
        process = response[: found.start] + response[found.end :] if found else response
        signals = measure_process(process, prompt, answer if answer.strip() != gold else None, gold)
        trailing = len(response.rstrip()) - found.end if found else 0
        score, reason = score_right(signals, trailing) if same else score_wrong(signals)
        return Verdict(
            score, f"{_describe(gold, found.text if found else None, same)}; {reason}", details=_details(bool(same), signals)
        )

    def judge_many(
        self, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """Score many responses, `workers` at a time."""
        items = zip_items(prompts, responses, answers)
        with ThreadPoolExecutor(self._comparer.workers) as pool:
            return list(pool.map(lambda item: self.judge(*item), items))

    def close(self) -> None:
        """End the comparison processes."""
        self._comparer.close()


def score_right(signals: ProcessSignals, trailing: int) -> tuple[float, str]:
    """Score and reason for a right answer.

    Args:
        signals: What was measured of the process.
        trailing: Characters after the statement of the answer.
    """
    if signals.num_wrong:
        return 3.0, f"{signals.num_wrong} of {signals.num_checked} arithmetic equations do not hold"
    if not signals.is_present:
        return 4.0, "no process"
    if signals.repeated_share >= MAX_REPEATED_SHARE:
        return 4.0, f"redundant: {signals.repeated_share:.0%} of the sentences repeat earlier ones"
    if signals.length_ratio is not None and signals.length_ratio >= MAX_LENGTH_RATIO and signals.length >= MIN_REDUNDANT_LENGTH:
        return 4.0, f"redundant: {signals.length_ratio:.1f} times as long as the reference"
    if trailing > MAX_TRAILING_LENGTH:
        return 4.0, f"redundant: {trailing} characters follow the answer"
    return 5.0, "process present, no arithmetic error found"


def score_wrong(signals: ProcessSignals) -> tuple[float, str]:
    """Score and reason for an answer that is wrong or missing."""
    if signals.coverage is not None:
        reason = f"{signals.coverage:.0%} of the reference's intermediate results are reached"
        return (3.0 if signals.coverage >= 0.5 else 2.0 if signals.coverage > 0 else 1.0), reason
    if signals.num_right > signals.num_wrong:
        return 2.0, f"{signals.num_right} of {signals.num_checked} arithmetic equations hold, no reference process to compare with"
    return 1.0, "nothing right was found in the process"


def _describe(gold: str, found: str | None, same: bool | None) -> str:
    if found is None:
        return "no final answer stated"
    verdict = {True: "right", False: "wrong", None: "not comparable within the limits, so wrong"}[same]
    return f"answer {found[:80]!r} is {verdict} (gold {gold[:80]!r})"


def _details(correct: bool, signals: ProcessSignals) -> dict[str, float]:
    details = {
        "correct": float(correct),
        "process_present": float(signals.is_present),
        "arithmetic": signals.num_right / signals.num_checked if signals.num_checked else 1.0,
        "repeated_share": signals.repeated_share,
    }
    return details if signals.coverage is None else details | {"coverage": signals.coverage}
