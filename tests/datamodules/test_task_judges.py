"""A judge belongs to its task: who scores, where nothing, something or several things are named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from datamodules.contracts.stores import PromptStore
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.base import Task
from datamodules.tasks.joined import JoinedTask
from datamodules.tasks.maths.chinese_maths import ChineseMathsTask
from datamodules.tasks.maths.competition_maths import CompetitionMathsTask
from datamodules.tasks.maths.gsm8k import GSM8KTask
from datamodules.tasks.prompt_file import PromptFile
from datamodules.tasks.writing.poem import PoemTask
from datamodules.tasks.writing.slogan import SloganTask
from judges.answer import AnswerJudge
from judges.arithmetic import ArithmeticJudge
from judges.maths import MathsJudge
from judges.slogan import SloganJudge
from lightning_modules.rewards.judge_reward import JudgeReward


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        (ArithmeticTask(), ArithmeticJudge),
        (GSM8KTask(), MathsJudge),
        (CompetitionMathsTask(), MathsJudge),
        (ChineseMathsTask(), MathsJudge),
        (SloganTask(), SloganJudge),
        (PromptFile(), type(None)),
        (JoinedTask(tasks=(GSM8KTask(), ChineseMathsTask())), MathsJudge),
        (JoinedTask(tasks=(PromptFile(),)), type(None)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_tasks_own_judge_scores_unless_another_is_named(task: Task, kind: type) -> None:
    assert type(task.scorer) is kind
    assert task.scorer is task.scorer, "one judge, and not one for each that asks: it may hold processes and connections"


def test_a_named_judge_replaces_the_tasks_own() -> None:
    judge = AnswerJudge()
    assert GSM8KTask(judge=judge).scorer is judge
    assert JoinedTask(tasks=(GSM8KTask(), PromptFile()), judge=judge).scorer is judge


def test_a_judge_reads_its_files_when_it_is_asked_for(tmp_path: Path) -> None:
    task = PoemTask(rhyme_folder=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Pingshui_Rhyme"):
        _ = task.scorer


@pytest.mark.parametrize("other", [PromptFile(), SloganTask(), GSM8KTask(judge=AnswerJudge())], ids=["none", "slogan", "named"])
def test_joined_tasks_of_different_judges_have_no_common_scale(other: Task) -> None:
    tasks = (CompetitionMathsTask(), other)
    with pytest.raises(ValueError, match=r"joined tasks of one judge.*maths"):
        _ = JoinedTask(tasks=tasks).scorer


def test_a_reward_without_any_judge_is_refused_before_the_first_rollout() -> None:
    own = ArithmeticJudge()
    store = cast(PromptStore, SimpleNamespace(judge=None, tokenizer=None))
    with pytest.raises(ValueError, match=r"data\.task\.judge"):
        JudgeReward().prepare(store, torch.device("cpu"))
    JudgeReward(own).prepare(store, torch.device("cpu"))
    JudgeReward().prepare(cast(PromptStore, SimpleNamespace(judge=own, tokenizer=None)), torch.device("cpu"))
