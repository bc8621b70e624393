"""The methods' page: the setting is chosen on one seed, and read with the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from studies import study as study_module
from studies.files import load_study
from studies.pages import methods
from studies.study import Cell


def write_run(cell: Cell, tuning: float, test: float) -> None:
    """A run whose accuracy on the problems that choose, and on the others, is given."""
    (cell.folder / "diagnostics").mkdir(parents=True)
    (cell.folder / "policy").mkdir()
    (cell.folder / "config.yaml").write_text("seed_everything: 0\n")
    solved = [float(n < 100 * tuning) for n in range(100)] + [float(n < 200 * test) for n in range(200)]
    rows: dict[str, dict[str, Any]] = {"outcome": {"task/accuracy": solved}, "known_mass": {"known_mass/known": 0.7}}
    for name, row in rows.items():
        lines = [{"step": 0} | row, {"step": 20} | row]
        (cell.folder / "diagnostics" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_tuning_seed_chooses_and_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "RUNS", tmp_path / "runs")
    study = load_study("paper/methods", is_quick=True)
    chosen_on = {("dpo", "6e-5"): 0.6, ("dpo", "2e-4"): 0.5, ("sft_dpo", "6e-5"): 0.7, ("sft_dpo", "2e-4"): 0.7}
    for cell in study.cells:
        method, rate, seed = (cell.levels[factor] for factor in ("method", "rate", "seed"))
        # One setting of the third method was not tried.
        if method != "chosen_sft" or (rate, seed) == ("6e-5", "100"):
            test = {"dpo": 0.2, "sft_dpo": 0.3}.get(method, 0.5) if rate == "6e-5" else 0.99
            write_run(cell, chosen_on.get((method, rate), 0.9) if seed == "100" else 0.1, test)
    needed = {(cell.levels["method"], cell.levels["rate"]) for cell in study.cells if cell.levels["seed"] == "0" and cell.is_needed}
    assert needed == {("dpo", "6e-5"), ("sft_dpo", "6e-5")}
    assert all(cell.is_needed for cell in study.cells if cell.levels["seed"] == "100")
    study.out.mkdir(parents=True)
    methods.write(study)
    text = (study.out / "table.md").read_text()
    assert "| DPO | 6e-5 | 1 | 0.200 | +0.0 |  |" in text
    # A tie takes the first rate; the best stands first.
    assert text.index("SFT-DPO") < text.index("| DPO |")
    assert "| SFT-DPO, gamma 0.1 | 6e-5 | 1 | 0.300 | +0.0 | +10.0 |" in text
    table, tuning = text.split("## Tuning")
    assert "SFT on chosen" not in table
    assert "| SFT on chosen | 0.900 | not tried |" in tuning
