"""A judge that calls a Python function, given by its dotted path."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

from judges.base import Judge, JudgeError, Verdict

Scorer = Callable[[str, str, str | None], float | tuple[float, str] | Verdict]


class CallableJudge(Judge):
    """Scores with `function(prompt, response, answer)`, which returns a score, a score and a reason, or a `Verdict`.

    Args:
        function: Dotted path such as `my_package.scoring.score`; the module must be importable from where the program runs.
        min_score: Lowest score it gives.
        max_score: Highest score it gives.
        version: Change it whenever the function changes, as scores are stored under it.

    Raises:
        ValueError: if there is no such function, or the scale is empty.
    """

    name = "callable"
    version = "1"
    scale = (0.0, 1.0)

    def __init__(self, function: str, min_score: float = 0.0, max_score: float = 1.0, version: str = "1") -> None:
        if not min_score < max_score:
            raise ValueError(f"expected min_score < max_score, got {min_score} and {max_score}. Give the scale of {function}.")
        self._function = find_function(function)
        self.name = f"callable:{function}"
        self.version = version
        self.scale = (min_score, max_score)

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one response.

        Raises:
            JudgeError: if the function raises, or returns something else or outside its scale.
        """
        try:
            verdict = as_verdict(self._function(prompt, response, answer))
        except Exception as error:
            raise JudgeError(f"{self.name} failed with {type(error).__name__}: {error}") from error
        low, high = self.scale
        if not (math.isfinite(verdict.score) and low <= verdict.score <= high):
            raise JudgeError(f"expected {self.name} to return a score in [{low}, {high}], got {verdict.score}. Set its scale.")
        return verdict


def find_function(path: str) -> Scorer:
    """The function that a dotted path names.

    Raises:
        ValueError: if the module cannot be found or has no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"expected the dotted path of a function, got {path!r} ({error}). Write module.function.") from error
    if not callable(function):
        raise ValueError(f"expected {path!r} to be callable, got {type(function).__name__}. Name a function.")
    return function  # type: ignore[no-any-return]


def as_verdict(result: float | tuple[float, str] | Verdict) -> Verdict:
    """What a scoring function returned, as a verdict."""
    if isinstance(result, Verdict):
        return result
    score, reason = result if isinstance(result, tuple) else (result, "score of the function")
    return Verdict(float(score), reason)
