"""The slogan judge: the paper's two dimensions, Word Count by rule and Content by another judge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from judges.base import Judge, JudgeError, Verdict, zip_items

_WORD = re.compile(r"[一-鿿]|[^\W_一-鿿]+(?:['’.&-][^\W_一-鿿]+)*")
_LABEL = re.compile(r"^\s*(?:slogan|tagline|headline|广告语|标语|口号)\s*[:：]\s*", re.IGNORECASE)
_UNIT = r"\s*(?:个)?(?:words?|字|词|characters?)"
_BETWEEN = re.compile(rf"(\d+)\s*(?:-|–|~|～|到|至|to|and|和)\s*(\d+){_UNIT}", re.IGNORECASE)
_AT_MOST = re.compile(
    rf"(?:at most|no more than|up to|under|within|maximum(?: of)?|不超过|不多于|最多|至多)\s*(\d+){_UNIT}"
    rf"|(\d+){_UNIT}\s*(?:以内|之内|or (?:less|fewer))",
    re.IGNORECASE,
)
_AT_LEAST = re.compile(
    rf"(?:at least|no (?:less|fewer) than|minimum(?: of)?|不少于|至少|最少)\s*(\d+){_UNIT}|(\d+){_UNIT}\s*(?:以上|or more)",
    re.IGNORECASE,
)
_EXACTLY = re.compile(rf"(\d+)[- ]?{_UNIT}", re.IGNORECASE)


class WordLimits(NamedTuple):
    """How many words a slogan may have; a Chinese character counts as one."""

    low: int
    high: int

    def grade(self, count: int) -> float:
        """1 within the limits; outside, 1 less the distance to the nearer limit as a share of that limit, at least 0."""
        if count < self.low:
            return count / self.low
        return max(0.0, 1 - max(0, count - self.high) / self.high)


def read_limits(prompt: str, default: WordLimits) -> WordLimits:
    """The limits a prompt states ("5-8 words", "at most 6 words", "不超过10个字"); what it leaves open is as in `default`."""
    if match := _BETWEEN.search(prompt):
        low, high = sorted((int(match[1]), int(match[2])))
        return WordLimits(low, high)
    most, least, exactly = (_find_number(pattern, prompt) for pattern in (_AT_MOST, _AT_LEAST, _EXACTLY))
    if most is None and least is None:
        return WordLimits(exactly, exactly) if exactly else default
    high = max(default.high, least or 0) if most is None else most
    return WordLimits(min(default.low, high) if least is None else least, high)


def _find_number(pattern: re.Pattern[str], prompt: str) -> int | None:
    match = pattern.search(prompt)
    return int(next(filter(None, match.groups()))) if match else None


def count_words(response: str) -> int:
    """Words of a slogan, without a label such as `Slogan:`; a Chinese character counts as one."""
    return len(_WORD.findall(_LABEL.sub("", response)))


class SloganJudge(Judge):
    """Grades a slogan on `word_count` and, through another judge, on `content`; the score is their mean.

    `details`: both grades, in [0, 1]. The content judge's score is brought to [0, 1] by its scale; its cost is the verdict's.

    Args:
        content: Judges the content, e.g. an `LLMJudge` with the slogan rubric, or a `RewardModelJudge`. None: word count alone.
        min_words: Fewest words where the prompt states no number.
        max_words: Most words where the prompt states no number; real advertising slogans have 2 to 10.

    Raises:
        ValueError: if the limits cross.
    """

    name = "slogan"
    version = "1"
    scale = (0.0, 1.0)

    def __init__(self, content: Judge | None = None, min_words: int = 2, max_words: int = 10) -> None:
        if not 1 <= min_words <= max_words:
            raise ValueError(f"expected 1 <= min_words <= max_words, got {min_words} and {max_words}. Give the fewest first.")
        self._content = content
        self._limits = WordLimits(min_words, max_words)
        if content is not None:
            self.name = f"slogan+{content.name}"
            self.version = f"{self.version}+{content.version}"

    def judge(self, prompt: str, response: str, answer: str | None = None) -> Verdict:
        """Score one slogan; `answer`, a reference slogan, goes to the content judge."""
        content = self._content.judge(prompt, response, answer) if self._content else None
        return self._combine(prompt, response, content)

    def judge_many(
        self, prompts: Sequence[str], responses: Sequence[str], answers: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """Score many slogans; the content judge gets them all at once."""
        items = zip_items(prompts, responses, answers)
        if self._content is None:
            return [self._combine(prompt, response, None) for prompt, response, _ in items]
        try:
            contents = self._content.judge_many(prompts, responses, answers)
        except JudgeError as error:
            done = {i: self._combine(*items[i][:2], verdict) for i, verdict in error.verdicts.items()}
            raise JudgeError(str(error), done, error.failures) from error
        return [self._combine(prompt, response, content) for (prompt, response, _), content in zip(items, contents, strict=True)]

    def results(self, verdict: Verdict) -> Mapping[str, float]:
        """The paper's two dimensions (Table 3); without a content judge the one."""
        return verdict.details

    def _combine(self, prompt: str, response: str, content: Verdict | None) -> Verdict:
        limits, count = read_limits(prompt, self._limits), count_words(response)
        grades = {"word_count": limits.grade(count)}
        reason = f"{count} words of {limits.low}-{limits.high}"
        if content is not None and self._content is not None:
            grades["content"] = self._content.to_unit(content.score)
            reason += f"; content: {content.reason}"
        cost = content.cost if content else 0.0
        return Verdict(sum(grades.values()) / len(grades), reason, cost, grades)

    def close(self) -> None:
        """Close the content judge."""
        if self._content is not None:
            self._content.close()
