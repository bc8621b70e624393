"""The toy's page, from rows written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_modules.models.toy.policy import ToyPolicy, ToyShape
from studies import study as study_module
from studies.files import load_study
from studies.pages import toy
from studies.pages.arithmetic import DPO, REMEDY, properties
from studies.pages.toy_paper import PAPER
from studies.readings import groups_of
from studies.study import Cell, Study

STEPS = (0, 1, *range(100, 2001, 50))


def write_run(cell: Cell, peak_at: int, end: float) -> None:
    """Two seeds: chosen climbs to 0.5 and falls to `end`, rejected is gone at step 300."""
    folder = cell.folder
    (folder / "diagnostics").mkdir(parents=True)
    (folder / "config.yaml").write_text("seed_everything: 0\n")
    rows = []
    for step in STEPS:
        chosen = 0.1 + 0.4 * step / peak_at if step <= peak_at else 0.5 - (0.5 - end) * (step - peak_at) / (2000 - peak_at)
        values = {"own_chosen": chosen, "own_chosen_min": chosen / 2, "own_rejected": 0.1 if step < 300 else 1e-9}
        values |= {"other_chosen": 0.2, "other_rejected": 0.1, "unseen": 0.05, "papers_unseen": 0.08}
        gradients = {f"gradient/{c}/{s}": 0.5 for c in ("log10_pi", "log_pi", "logit") for s in ("chosen", "rejected")}
        rows.append({"step": step} | {name: [value, value * 1.1] for name, value in (values | gradients).items()})
    means = [{"step": step, "toy/own_chosen": 0.1} for step in STEPS]
    for name, content in {"toy_seeds": rows, "toy": means}.items():
        (folder / "diagnostics" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    ToyPolicy(ToyShape(num_seeds=2, width=4)).save(folder / "policy")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(study_module, "RUNS", tmp_path / "runs")
    made = load_study("toy")
    monkeypatch.setattr(study_module, "ROOT", tmp_path)
    made.out.mkdir(parents=True)
    return made


def test_the_page_shows_what_is_there(study: Study) -> None:
    for cell in study.cells:
        if cell.name in ("scenario1_dpo", "scenario2_dpo", "scenario4_dpo", "scenario1_tanh", "scenario1_steps500"):
            write_run(cell, 1000, 0.3)
    toy.write(study)
    text = (study.out / "tables.md").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    landmarks = {line[0]: line[1:] for line in lines if len(line) == 7}
    # Seeds at 0.5 and 0.55: mean 0.525, standard deviation 0.05 / sqrt(2).
    assert landmarks["chosen, peak"] == ["0.525 ± 0.035", "0.585", "0.525 ± 0.035", "0.489", "0.525 ± 0.035", "0.401"]
    assert landmarks["... at step"] == ["1000 ± 0", "1000", "1000 ± 0", "590", "1000 ± 0", "660"]
    assert landmarks["rejected below 0.005"][0] == "300 ± 0"
    assert "| scenario 1, tanh | 2 | 0.525 ± 0.035 | 1000 ± 0 | 0.315 ± 0.021 | 2 of 2 |" in text
    assert f"({PAPER[1].chosen_peak:.3f})" not in text
    assert text.count("| prompt ") == 4
    assert {path.name for path in study.out.glob("*.png")} == {"scenarios.png", "ledger.png", "gradients.png", "variants.png"}


def test_the_matrix_is_that_of_the_policy(tmp_path: Path) -> None:
    policy = ToyPolicy(ToyShape(num_seeds=2, width=4))
    policy.save(tmp_path / "policy")
    probabilities = toy.probabilities_of(tmp_path / "policy")
    assert probabilities.shape == (2, 4, 10)
    np.testing.assert_allclose(probabilities.sum(-1), 1)


def test_a_run_without_the_reading_is_named(study: Study) -> None:
    cell = study.cells[0]
    write_run(cell, 1000, 0.3)
    with pytest.raises(ValueError, match="with nothing in"):
        toy.curve_of(groups_of(study, over=())[0], "nothing")


def test_the_three_properties_in_one_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "RUNS", tmp_path)
    study = load_study("arithmetic")
    for cell in study.select({"scenario": ["1"], "seed": ["0", "1"]}):
        (cell.folder / "diagnostics").mkdir(parents=True)
        (cell.folder / "config.yaml").write_text("seed_everything: 0\n")
        rows = [{"step": step, "task/accuracy": 0.5, "likelihood/bank/rejected/change": -step} for step in (0, 40)]
        (cell.folder / "diagnostics" / "accuracy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = {group.label: group for group in groups_of(study)}
    assert {DPO, REMEDY} <= set(groups)
    figure = properties(groups[DPO], groups[REMEDY])
    drawn = [line for line in figure.axes[0].get_lines() if line.get_label() == "rejected"]
    assert np.asarray(drawn[0].get_ydata()).tolist() == [0, -40]
