"""Groups of responses through a judge, all in one call: a judge may work on many at once."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.tasks.base import TaskItem
from judges.base import Judge, Verdict


def judge_groups(judge: Judge | None, items: Sequence[TaskItem], groups: Sequence[Sequence[str]]) -> list[list[Verdict | None]]:
    """A verdict for each response, in the groups they came in; None for each without a judge.

    Args:
        judge: scores the responses, if there is one.
        items: the problems.
        groups: the responses to each problem.

    Raises:
        JudgeError: if some could not be judged.
    """
    if judge is None or not any(groups):
        return [[None] * len(texts) for texts in groups]
    asked = [(item, text) for item, texts in zip(items, groups, strict=True) for text in texts]
    prompts, answers = [item.prompt for item, _ in asked], [item.answer for item, _ in asked]
    verdicts = iter(judge.judge_many(prompts, [text for _, text in asked], answers))
    return [[next(verdicts) for _ in texts] for texts in groups]
