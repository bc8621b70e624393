"""The page of the four scenarios: half of the problems choose the rate, the other half is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from studies import study as study_module
from studies.files import load_study
from studies.pages import scenarios
from studies.study import Cell


def write_run(cell: Cell, first_half: float, second_half: float) -> None:
    folder = cell.folder / "diagnostics"
    folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text("seed_everything: 0\n")
    before = [1.0] * 50 + [0.0] * 50
    after = [float(n < 100 * first_half) for n in range(100)] + [float(n < 100 * second_half) for n in range(100)]
    rows = [{"step": 0, "task/accuracy": before * 2}, {"step": 24, "task/accuracy": after}]
    (folder / "outcome.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dispersion.jsonl").write_text('{"step": 24, "dispersion/bank/off_pair_mass": 0.25}\n')
    (folder / "ended.jsonl").write_text('{"step": 24}\n')


def test_the_rate_is_chosen_on_one_half_and_read_on_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "RUNS", tmp_path / "runs")
    runs = load_study("verdict")
    for cell in runs.select({"method": ["dpo"]}):
        rate = cell.levels["rate"]
        # Two tie: the lower one is taken. What does best on the half that is shown chooses nothing.
        write_run(cell, 0.7 if rate in {"7e-5", "3e-4"} else 0.5, {"7e-5": 0.6, "3e-4": 0.1}.get(rate, 0.9))
    # One rate of this loss is missing: it had a smaller budget.
    for cell in runs.select({"method": ["ipo"], "scenario": ["1"]})[:-1]:
        write_run(cell, 0.9, 0.9)
    study = replace(
        load_study("paper/scenarios"), settings={**load_study("paper/scenarios").settings, "out": str(tmp_path / "page")}
    )
    study.out.mkdir()
    scenarios.write(study)
    page = (study.out / "table.md").read_text(encoding="utf-8")
    assert "| dpo | 0.60 (+10; 7) | 0.60 (+10; 7) | 0.60 (+10; 7) | 0.60 (+10; 7) | +10.0 |" in page
    assert "| ipo |" not in page
    assert "| mean change, points | +10.0 | +10.0 | +10.0 | +10.0 |  |" in page
    # DPO at every rate is read on all problems.
    assert "| 3e-05 | 0.700 | 0.700 | 0.700 | 0.700 |" in page
    assert "Second model" not in page
