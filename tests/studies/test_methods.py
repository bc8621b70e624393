"""The methods' page: the setting is chosen on one seed, and read with the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies import study as study_module
from studies.files import load_study
from studies.pages import methods
from studies.study import Cell


def write_run(cell: Cell, accuracy: float, fresh: float) -> None:
    (cell.folder / "diagnostics").mkdir(parents=True)
    (cell.folder / "policy").mkdir()
    (cell.folder / "config.yaml").write_text("seed_everything: 0\n")
    rows = {"accuracy": {"task/accuracy": accuracy}, "fresh": {"fresh/accuracy": fresh}, "known_mass": {"known_mass/known": 0.7}}
    for name, row in rows.items():
        lines = [{"step": 0} | row, {"step": 30} | row]
        (cell.folder / "diagnostics" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_tuning_seed_chooses_and_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "RUNS", tmp_path / "runs")
    study = load_study("paper/methods", is_quick=True)
    chosen_on = {("dpo", "1e-4"): 0.6, ("dpo", "3e-4"): 0.5, ("sft_dpo", "1e-4"): 0.7, ("sft_dpo", "3e-4"): 0.7}
    for cell in study.cells:
        method, rate, seed = (cell.levels[factor] for factor in ("method", "rate", "seed"))
        # One setting of the third method was not tried.
        if method != "chosen_sft" or (rate, seed) == ("1e-4", "100"):
            write_run(cell, chosen_on.get((method, rate), 0.9) if seed == "100" else 0.1, 0.2 if rate == "1e-4" else 0.99)
    study.out.mkdir(parents=True)
    methods.write(study)
    text = (study.out / "table.md").read_text()
    assert "| DPO | 1e-4 | 1 | 0.200 |" in text
    # A tie takes the first rate.
    assert "| SFT-DPO, gamma 0.1 | 1e-4 | 1 | 0.200 |" in text
    table, tuning = text.split("## Tuning")
    assert "SFT on chosen" not in table
    assert "| SFT on chosen | 0.900 | not tried |" in tuning
