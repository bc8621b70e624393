"""The contract of a judge: a response in, a `Verdict` out, with enough provenance to say later who gave it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

FIVE_POINTS = (1.0, 5.0)
"""The paper's scale for mathematics (its Table 5): 4 and 5 mean that the answer is right."""


@dataclass(frozen=True)
class Verdict:
    """A judge's answer on one response.

    Raises:
        ValueError: if the score is NaN or infinite, or the cost is negative.
    """

    score: float
    """On the judge's own scale, higher is better."""
    reason: str
    """One line for a person: the rule, or the judge's words, that gave the score."""
    cost: float = 0.0
    """Money spent on this verdict, in the currency of the judge's prices; 0 for a local rule or a cached verdict."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Graded dimensions by name (e.g. `rhyme: 0.75`), in [0, 1] unless the judge's docstring says otherwise."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.score) or not 0 <= self.cost < math.inf:
            raise ValueError(
                f"expected a numeric score and a cost >= 0, both finite, got score {self.score}, cost {self.cost}. "
                "A judge that cannot judge raises JudgeError instead."
            )


class JudgeError(RuntimeError):
    """Responses could not be judged, through no fault of theirs (server gone, worker broken, key refused).

    `verdicts` holds what was judged before and beside the failure, by position in the call, and `failures` the reason for
    each position that was not, so that a caller can store the one and name the other.
    """

    def __init__(
        self, message: str, verdicts: Mapping[int, Verdict] | None = None, failures: Mapping[int, str] | None = None
    ) -> None:
        super().__init__(message)
        self.verdicts: dict[int, Verdict] = dict(verdicts or {})
        self.failures: dict[int, str] = dict(failures or {})


class Judge(ABC):
    """Scores responses. A concrete judge sets `name`, `version` and `scale` on its class, or refines them in `__init__`.

    Raises:
        TypeError: when a class that defines `judge` lacks one of the three.
    """

    name: str
    """Stored with every score; says what judged, e.g. `maths` or `llm:some-model`."""
    version: str
    """Stored with every score; changes whenever the same response could get another score."""
    scale: tuple[float, float]
    """Lowest and highest score; (-inf, inf) when unbounded."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        missing = [attribute for attribute in ("name", "version", "scale") if not hasattr(cls, attribute)]
        if missing and "judge" in cls.__dict__:
            raise TypeError(
                f"expected {cls.__name__} to define {', '.join(missing)}, got none. Scores without provenance are useless."
            )

    @abstractmethod
    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one response.

        Args:
            prompt: What the model was asked, as plain text.
            response: What it said.
            answer: The gold answer or reference solution, where the task has one.

        Raises:
            JudgeError: if no verdict could be had. A bad response is no error: it gets a low score.
        """

    def judge_many(
        self, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """Score many responses, in order; by default one after the other.

        Args:
            prompts: One prompt a response (repeat it for several responses to one prompt).
            responses: As many as `prompts`.
            answers: As many as `prompts`, or None when the task has none.

        Raises:
            ValueError: if the sequences differ in length.
            JudgeError: if some could not be judged; it carries the verdicts of the others.
        """
        return [self.judge(*item) for item in zip_items(prompts, responses, answers)]

    def results(self, verdict: Verdict) -> Mapping[str, float]:
        """The value of a verdict in each column of the paper's table for the task; a cell is the mean over responses.

        By default, on the paper's five points: `five_points` and `four_and_five_points`, the shares with that many (Tables 2, 8
        and 9), and `accuracy` where the judge knows whether the answer is `correct`. On any other scale `score`.
        """
        if self.scale != FIVE_POINTS:
            return {"score": verdict.score}
        shares = {"five_points": float(verdict.score >= 5), "four_and_five_points": float(verdict.score >= 4)}
        return shares | ({"accuracy": verdict.details["correct"]} if "correct" in verdict.details else {})

    def to_unit(self, score: float) -> float:
        """`score` on [0, 1]: linear on a bounded scale, the logistic function on an unbounded one."""
        low, high = self.scale
        if math.isfinite(low) and math.isfinite(high):
            return (score - low) / (high - low)
        return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else math.exp(score) / (1.0 + math.exp(score))

    def close(self) -> None:
        """Free processes and connections; the judge may be used again afterwards. Nothing to free by default."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def zip_items(
    prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] | None
) -> list[tuple[str, str, str | None]]:
    """`(prompt, response, answer)` for each position.

    Raises:
        ValueError: if the sequences differ in length.
    """
    golds = [None] * len(prompts) if answers is None else answers
    if not len(prompts) == len(responses) == len(golds):
        raise ValueError(
            f"expected as many prompts as responses and answers, got {len(prompts)}, {len(responses)} and {len(golds)}. "
            "Repeat a prompt once for each of its responses."
        )
    return list(zip(prompts, responses, golds, strict=True))
