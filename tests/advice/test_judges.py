"""The judge of the forks: a callback's, or else the task's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advice.command import facts_of
from advice.forks import has_judge, reading_options
from advice.origin import Origin
from advice.remedies import CannotApply, all_remedies, applied
from advice.settings import value_at

ARITHMETIC = {"class_path": "judges.arithmetic.ArithmeticJudge"}
TASK = {"class_path": "datamodules.tasks.arithmetic.task.ArithmeticTask", "init_args": {"judge": None}}
OWN_PROMPTS = {"class_path": "datamodules.tasks.prompt_file.PromptFile", "init_args": {"judge": None}}


def config(judge: dict[str, Any] | None, task: dict[str, Any] | None) -> dict[str, Any]:
    arguments = {"judge": judge, "num_problems": 7, "max_new_tokens": 9}
    monitor = {"class_path": "callbacks.diagnostics.accuracy.AccuracyMonitor", "init_args": arguments}
    return {
        "trainer": {"callbacks": [monitor]},
        "model": {"init_args": {"policy": 1, "reference": None, "loss": 2, "optimizer": 3, "lr_scheduler": None}},
        "data": {"class_path": "x", "init_args": {"task": task, "pool": "p", "batch_size": 4}},
    }


@pytest.mark.parametrize(
    ("judge", "task", "is_judged"),
    [
        (ARITHMETIC, TASK, True),
        (None, TASK, True),
        (None, OWN_PROMPTS, False),
        (ARITHMETIC, OWN_PROMPTS, True),
        (ARITHMETIC, None, False),
    ],
)
def test_on_policy_pairs_are_tried_where_answers_are_judged(
    judge: dict[str, Any] | None, task: dict[str, Any] | None, is_judged: bool, tmp_path: Path
) -> None:
    given = config(judge, task)
    options = reading_options(given, None)
    assert (options["num_problems"], options["max_new_tokens"]) == (7, 9)
    assert has_judge(given, options) is is_judged
    facts = facts_of(Origin(tmp_path, given, 0, None, 0, None, 0), options)
    remedy = all_remedies()["on_policy"]
    if not is_judged:
        with pytest.raises(CannotApply, match="no judge"):
            applied(remedy, given, facts)
        return
    changed = applied(remedy, given, facts)
    [reward] = value_at(changed, "model.rewards")
    assert reward["init_args"] == {"judge": judge}
    assert value_at(changed, "data.max_new_tokens") == 9
