"""A study's grid: names, folders, options, what is skipped, and what is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies import files, study
from studies.files import load_study, study_names
from studies.study import Study

GRID: dict[str, Any] = {
    "title": "A study",
    "experiment": "toy_dpo",
    "options": ["--trainer.max_steps", 2],
    "grid": {
        "seed": {"levels": [0, 1], "options": ["--seed_everything", "{seed}"]},
        "method": {
            "dpo": ["--model.loss.beta", 0.1],
            "rto": {"experiment": "toy_sft", "title": "RTO", "options": ["--from", "{cell method=dpo}/policy"]},
        },
        "rate": {"1e-4": ["--lr", "1e-4"], "1e-3": ["--lr", "1e-3", "--flag", True]},
    },
    "skip": [{"method": "rto", "rate": ["1e-3"]}],
    "complete": {"rows": "accuracy", "step": 2},
    "quick": {"seed": [0]},
    "readings": [],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "FOLDER", tmp_path / "studies")
    monkeypatch.setattr(study, "RUNS", tmp_path / "runs")
    (tmp_path / "studies" / "trainers").mkdir(parents=True)
    (tmp_path / "studies" / "trainers" / "no_study.yaml").touch()
    return tmp_path / "studies"


def made(folder: Path, *, is_quick: bool = False, **changes: Any) -> Study:
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID | changes, sort_keys=False))
    return load_study("grid", is_quick=is_quick)


def test_the_grid_in_order_with_what_is_skipped_left_out(folder: Path) -> None:
    names = [cell.name for cell in made(folder).cells]
    one_seed = ["dpo_rate1e-4_seed{}", "dpo_rate1e-3_seed{}", "rto_rate1e-4_seed{}"]
    assert names == [name.format(seed) for seed in (0, 1) for name in one_seed]
    assert study_names() == ["grid"]


def test_a_run_has_the_options_of_its_levels(folder: Path) -> None:
    whole = made(folder)
    dpo, rto = (whole.select({"seed": ["1"], "method": [method]})[-1] for method in ("dpo", "rto"))
    words = "fit --config configs/experiment/toy_dpo.yaml --trainer.max_steps 2 --seed_everything 1 --model.loss.beta 0.1"
    assert dpo.command()[:13] == [*words.split(), "--lr", "1e-3", "--flag", "true"]
    assert rto.command()[2] == "configs/experiment/toy_sft.yaml"
    logged = dict(zip(dpo.command()[13::2], dpo.command()[14::2], strict=True))
    where = {key.rpartition(".")[2]: value for key, value in logged.items()}
    assert dpo.folder == Path(where["save_dir"]) / where["name"] / f"version_{where['version']}"
    assert dpo.folder.is_relative_to(folder.parent / "runs" / "grid")


def test_a_run_starts_from_the_run_that_differs_in_what_it_names(folder: Path) -> None:
    cell = made(folder).select({"method": ["rto"], "seed": ["1"]})[0]
    [other] = cell.needs()
    assert other.name == "dpo_rate1e-4_seed1"
    assert f"{other.folder}/policy" in cell.command()
    assert (cell.title, other.title) == ("RTO, rate 1e-4", "dpo, rate 1e-4")


def test_quick_keeps_some_levels_and_its_page_stands_elsewhere(folder: Path) -> None:
    quick = made(folder, is_quick=True)
    assert [cell.levels["seed"] for cell in quick.cells] == ["0"] * 3
    assert quick.out.is_relative_to(folder.parent / "runs")
    assert made(folder).out == study.ROOT / "docs" / "results" / "grid"


def test_groups_are_of_complete_runs(folder: Path) -> None:
    whole = made(folder)
    for cell in (whole.cells[0], whole.cells[3]):
        (cell.folder / "diagnostics").mkdir(parents=True)
        (cell.folder / "diagnostics" / "accuracy.jsonl").write_text('{"step": 0}\n{"step": 2}\n')
    (whole.cells[1].folder / "diagnostics").mkdir(parents=True)
    (whole.cells[1].folder / "diagnostics" / "accuracy.jsonl").write_text('{"step": 1}\n')
    assert {title: [cell.name for cell in cells] for title, cells in whole.groups().items()} == {
        "dpo, rate 1e-4": ["dpo_rate1e-4_seed0", "dpo_rate1e-4_seed1"]
    }
    assert whole.settings == {"readings": []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skip": [{"method": "ppo"}]}, "method=ppo"),
        ({"quick": {"seed": [7]}}, "seed=7"),
        ({"grid": {"seed": {}}}, "expected levels"),
        ({"grid": {"a": {"x": []}, "b": {"x": []}}, "skip": [], "quick": {}, "complete": {"path": "policy"}}, None),
        ({"grid": {"a": {"x": ["{cell a=y}"]}}, "skip": [], "quick": {}}, "a=y"),
        ({"grid": {"a": {"x_y": [], "x": []}, "b": {"y": [], "y_y": []}}, "skip": [], "quick": {}}, "x_y_y"),
    ],
)
def test_mistakes_are_named(folder: Path, changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        made(folder, **changes)
        return
    with pytest.raises(ValueError, match=message):
        made(folder, **changes)


def test_a_study_that_is_not_there_is_named_with_those_that_are(folder: Path) -> None:
    made(folder)
    with pytest.raises(ValueError, match=r"got 'toys'. There are grid"):
        load_study("toys")


def test_every_shipped_study_can_be_read() -> None:
    for name in study_names():
        for is_quick in (False, True):
            read = load_study(name, is_quick=is_quick)
            assert bool(read.cells) == bool(read.grid)
