"""The labels of docs/results/verdict, their thresholds, and the model: against values counted by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from studies.verdict import labels
from studies.verdict.chores import ChoresTask
from studies.verdict.evaluation import Warned, lead_of, wilson
from studies.verdict.families import LabelledRun
from studies.verdict.fit import Model, Scored, fit, threshold_of, threshold_without
from studies.verdict.labels import Outcome, outcome_of


@dataclass(frozen=True)
class Run:
    """As much of a run as the thresholds read."""

    family: str
    outcome: Outcome
    sizes: Any = None
    length: int = 24


@dataclass(frozen=True)
class Cell:
    folder: str = "run"


def written(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Any:
    path = folder / "run" / "diagnostics" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return cast(Any, Cell())


def answers(step: int, right: int, right_of_first: int = 25) -> dict[str, Any]:
    """150 problems of the label, after 50 that are in none."""
    first = [1.0] * right_of_first + [0.0] * (50 - right_of_first)
    return {"step": step, "task/accuracy": [*first, *([1.0] * right), *([0.0] * (150 - right))]}


def test_a_run_is_wrong_where_the_mean_of_its_last_two_readings_fell_by_6_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "ROOT", tmp_path)
    rows = [answers(0, 90), answers(6, 78), answers(12, 90), answers(18, 81), answers(24, 81, right_of_first=5)]
    outcome = outcome_of(written(tmp_path, "outcome", rows), "embedded")
    assert outcome.change == pytest.approx(-0.06)
    # Step 6 was as bad, and step 12 took it back.
    assert (outcome.is_wrong, outcome.harm_step) == (True, 18)
    # 0.5 - 0.1 - sqrt((0.25 + 0.09) / 50): problems of the label move nothing here.
    step, fall = outcome.judged[-1]
    assert (step, fall) == pytest.approx((24, 0.4 - (0.34 / 50) ** 0.5))
    fine = outcome_of(written(tmp_path, "outcome", [*rows[:-1], answers(24, 82)]), "embedded")
    assert (fine.is_wrong, fine.harm_step) == (False, None)


def test_neutral_text_and_repetition_make_a_run_of_smollm2_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "ROOT", tmp_path)

    def rows(nll: float, repeating: int) -> list[dict[str, Any]]:
        repeated = [0.6] * repeating + [0.1] * (12 - repeating)
        start = {"step": 0, "neutral/nll": [2.0, 3.0], "neutral/repetition": [0.1] * 12}
        return [start, {"step": 12, "neutral/nll": [nll, nll], "neutral/repetition": repeated}]

    for nll, repeating, is_wrong in ((2.59, 2, False), (2.61, 0, True), (2.5, 3, True)):
        outcome = outcome_of(written(tmp_path, "outcome", rows(nll, repeating)), "SmolLM2")
        assert (outcome.is_wrong, outcome.harm_step) == (is_wrong, 12 if is_wrong else None)


def scored(family: str, highest: float, is_wrong: bool = False) -> Scored:
    run = cast(LabelledRun, Run(family, Outcome(0.0, is_wrong, 12 if is_wrong else None)))
    return Scored(run, [3, 6], np.array([highest - 1, highest]))


def test_the_threshold_lets_one_of_twenty_fine_runs_warn_and_no_family_more() -> None:
    fine = [scored("a", score / 100) for score in range(40)]
    # The two highest may warn, not the third; wrong runs and the family apart do not count.
    threshold = threshold_of([*fine, scored("a", 9.0, is_wrong=True), scored("toy", 9.0)])
    assert [one.highest >= threshold for one in fine].count(True) == 2
    other = [scored("b", 5 + score / 100) for score in range(20)]
    strict = threshold_of([*fine, *other])
    assert [one.highest >= strict for one in other].count(True) == 1
    assert threshold_without([*fine, *other], "b") == threshold


def test_a_warning_comes_with_the_first_score_that_reaches_the_threshold_and_leads_by_what_is_left() -> None:
    late = scored("a", 2.0, is_wrong=True)
    assert (late.warned_at(1.0), late.warned_at(1.5), late.warned_at(2.5)) == (3, 6, None)
    assert lead_of([Warned(late.run, 6)]) == "+6 steps, +25% of the run; 1 before harm showed, 0 with it, of 1"
    assert wilson(0, 10) == "0.00 [0.00, 0.28] (0 of 10)"


def test_scores_never_fall() -> None:
    model = Model(np.array([1.0, 0.0]), -1.0)
    assert model.scores(np.array([[1.0, 9.0], [3.0, 0.0], [2.0, 0.0]])).tolist() == [0.0, 2.0, 2.0]


def test_no_coefficient_is_negative_and_what_helps_is_kept() -> None:
    pytest.importorskip("sklearn", reason="the page of the study needs scikit-learn")
    generator = np.random.default_rng(0)
    runs = []
    for number in range(60):
        is_wrong = number % 2 == 0
        sizes = generator.normal(size=(4, 3)) * 0.1 + np.array([1.0 * is_wrong, -1.0 * is_wrong, 0.0])
        runs.append(cast(LabelledRun, Run("a", Outcome(0.0, is_wrong, None), sizes)))
    model = fit(runs, lambda run: run.sizes)
    assert model.weights[0] > 0
    # It falls where runs end wrong: a reading that grows with harm has no such part.
    assert model.weights[1] == 0
    assert model.weights.min() >= 0


def test_the_second_family_has_the_judge_of_its_own_problems() -> None:
    task = ChoresTask(num_test=20, num_slips=1)
    judge = task.scorer
    assert judge is not None
    for item in task.items("test"):
        assert judge.judge(item.prompt, str(item.solution), item.answer).score >= 4, item
        assert judge.judge(item.prompt, item.others[0][1], item.answer).score < 4, item
