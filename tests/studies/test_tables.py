"""Tables of a study, from rows written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.tasks.arithmetic.task import ArithmeticTask
from reports.groups import Curve, Group
from reports.runs import Run
from studies import study as study_module
from studies.files import load_study, study_names
from studies.pages import table
from studies.pages.rlhf import NUM_PROBLEMS, SEEN, problems
from studies.readings import READ, Reading, groups_of, spread
from studies.study import Cell, Complete, Level, Study

CHOSEN = "likelihood/bank/chosen/change_per_token"


def write_rows(cell: Cell, accuracy: tuple[float, ...], chosen: float) -> None:
    folder = cell.folder / "diagnostics"
    folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text("seed_everything: 0\n")
    rows = {
        "accuracy": [{"step": 20 * number, "task/accuracy": value} for number, value in enumerate(accuracy)],
        "likelihood": [{"step": 0, CHOSEN: 0.0}, {"step": 40, CHOSEN: chosen}],
    }
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(study_module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(study_module, "ROOT", tmp_path)
    grid = {"seed": {str(n): Level(str(n)) for n in range(3)}, "method": {name: Level(name) for name in ("dpo", "ppo")}}
    rows = [
        {"heading": "end", "metric": "task/accuracy"},
        {"heading": "gain (points)", "metric": "task/accuracy", "read": "change", "scale": 100, "digits": 1, "is_signed": True},
        {"heading": "chosen", "metric": CHOSEN, "is_signed": True},
    ]
    settings = {
        "tables": [{"title": "All", "rows": rows}, {"title": "DPO alone", "rows": rows[:1], "only": {"method": "dpo"}}],
        "against": {"reading": "end", "groups": ["dpo"]},
        "panels": [{"title": "accuracy", "unit": "share", "lines": {"accuracy": "task/accuracy"}}],
    }
    study = Study("made", "Made up", grid, Complete(rows="accuracy", step=40), "toy_dpo", settings=settings)
    ends = {("0", "dpo"): 0.5, ("1", "dpo"): 0.3, ("0", "ppo"): 0.75, ("2", "ppo"): 0.85}
    for cell in study.cells:
        key = (cell.levels["seed"], cell.levels["method"])
        if key in ends:
            write_rows(cell, (0.6, 0.55, ends[key]), -0.2)
    return study


def test_a_page_from_settings_alone(made: Study) -> None:
    made.out.mkdir(parents=True)
    table.write(made)
    text = (made.out / "table.md").read_text()
    assert "4 of 6 runs" in text
    assert "| dpo | 2 | 0.400 ± 0.141 | -20.0 ± 14.1 | -0.200 ± 0.000 |" in text
    assert "| ppo | 2 | 0.800 ± 0.071 | +20.0 ± 7.1 | -0.200 ± 0.000 |" in text
    assert text.partition("## DPO alone")[2].count("| ppo |") == 1  # in the differences
    # Of the seeds 0 of both; seeds 1 and 2 have no twin.
    assert "| ppo | +0.250 |" in text
    assert (made.out / "curves.png").stat().st_size > 5_000


def test_a_curve_is_read_in_every_way_by_hand() -> None:
    values = np.array([[50.0, 50.0], [70.0, 40.0], [60.0, 30.0], [80.0, 30.0]])
    curve = Curve(np.array([0, 6, 12, 18]), values)
    read: Mapping[str, list[float]] = {
        "first": [50, 50],
        "last": [80, 30],
        "last_two": [70, 30],
        "mean": [65, 37.5],
        "change": [30, -20],
        "highest": [80, 50],
        "highest_at": [18, 0],
        "lowest": [50, 30],
        "lost": [0, 20],
        "detour": [20, 0],
        "last_step": [18, 18],
    }
    assert {name: READ[name](curve, 0.0).tolist() for name in read} == read
    assert READ["falls"](curve, 15.0).tolist() == [0, 1]
    np.testing.assert_equal(READ["first_below"](curve, 45.0), [np.nan, 6])
    assert set(READ) == {*read, "falls", "first_below"}


def test_readings_of_several_metrics_and_differences() -> None:
    tracks = {name: [(0, 0.0), (1, value)] for name, value in (("a", 1.0), ("b", 3.0), ("c", 0.5))}
    group = Group("g", (Run(Path("x"), {}, tracks, {}, [], {}, [], {}),))
    assert Reading("", ("a", "b"), scale=2).values(group).tolist() == [4.0]
    assert Reading("", "a", minus="c", scale=10, digits=1).cell(group) == "5.0"
    assert Reading("", "absent").cell(group) == ""
    with pytest.raises(ValueError, match="expected one of first"):
        Reading.of({"heading": "x", "metric": "a", "read": "median"})


def test_a_spread_says_where_members_have_no_value() -> None:
    assert spread([1.0, 2.0], 1) == "1.5 ± 0.7"
    assert spread([1.0], is_signed=True) == "+1.000"
    assert spread([1.0, np.nan, 3.0], 0) == "2 ± 1 (2 of 3 seeds)"
    assert spread([np.nan]) == "never"
    assert spread([]) == ""


def test_every_shipped_table_can_be_read() -> None:
    for name in study_names():
        settings: Mapping[str, Any] = load_study(name).settings
        for content in settings.get("tables", ()):
            assert [Reading.of(row) for row in content["rows"]]


def test_fresh_problems_are_none_that_a_run_reads() -> None:
    asked = [problem.item.prompt for problem in problems()]
    seen = {item.prompt for item in ArithmeticTask(num_test=SEEN).items("test")}
    assert len(set(asked) - seen) == NUM_PROBLEMS


def test_groups_keep_the_order_of_the_grid(made: Study) -> None:
    assert [(group.label, len(group.runs)) for group in groups_of(made)] == [("dpo", 2), ("ppo", 2)]
