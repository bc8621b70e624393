"""What the pages publish comes out again, within its stated spread, from runs that are made here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reports.groups import Group
from reports.runs import load_run
from studies import study as study_module
from studies.files import load_study
from studies.readings import Reading
from studies.running import make
from studies.study import Cell

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"([+-]?\d+\.\d+) ± (\d+\.\d+)")


def made(study: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cell, Group]:
    """A run of a study, made anew in a folder."""
    monkeypatch.setattr(study_module, "RUNS", folder)
    [cell] = [cell for cell in load_study(study).cells if cell.name == name]
    assert make([cell]) == []
    return cell, Group(cell.title, (load_run(cell.folder),))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["scenario1_dpo", "scenario1_tanh"])
def test_the_toy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, group = made("toy", name, tmp_path, monkeypatch)
    page = (ROOT / "docs" / "results" / "toy" / "tables.md").read_text(encoding="utf-8")
    [row] = [line.split("|") for line in page.splitlines() if line.startswith(f"| {cell.title} |")]
    readings = [Reading.of(given) for given in cell.study.settings["tables"][0]["rows"]]
    # The cells before are empty, the title and the number of seeds.
    for reading, text in zip(readings, row[3:-1], strict=True):
        published = NUMBER.search(text)
        if published is not None:
            values = reading.values(group)
            assert values.mean() == pytest.approx(float(published[1]), abs=max(float(published[2]), 0.005)), reading.heading


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_arithmetic_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 1, seed 0: within the range of the three published seeds."""
    _, group = made("arithmetic", "dpo_scenario1_seed0", tmp_path, monkeypatch)
    page = (ROOT / "docs" / "results" / "arithmetic" / "README.md").read_text(encoding="utf-8")
    published = re.search(r"\| accuracy of the task \| ([\d.]+) -> [\d.]+ \[([\d.]+), ([\d.]+)\]", page)
    assert published is not None
    start, low, high = map(float, published.groups())
    curve = group.curve("task/accuracy")
    assert curve is not None
    assert curve.mean[0] == pytest.approx(start)
    # Half a problem of 200 more on each side: another machine may decide a tie otherwise.
    assert low - 0.0026 <= curve.mean[-1] <= high + 0.0026
