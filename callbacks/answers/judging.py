"""Sends all groups of responses to the judge of a run in one call, so that it may work on many at once."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Trainer

from datamodules.contracts.stores import TaskStore, data_of, meets
from datamodules.tasks.base import TaskItem
from judges.base import Judge, Verdict


def judge_of(trainer: Trainer, named: Judge | None) -> Judge | None:
    """The judge that the config names for a callback, or else that of the data's task; None if there is neither."""
    data = data_of(trainer)
    return named or (data.judge if meets(data, TaskStore) else None)


def require_judge(trainer: Trainer, named: Judge | None) -> Judge:
    """`judge_of`, for who cannot do without.

    Raises:
        ValueError: if there is none.
    """
    if (judge := judge_of(trainer, named)) is None:
        raise ValueError("expected a judge of the task's problems, got none. Name one: data.task.judge (docs/judges.md).")
    return judge


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
