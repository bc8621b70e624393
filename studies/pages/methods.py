"""The page of the methods: each at the setting that one seed chose, read with other seeds and on other problems."""

from __future__ import annotations

from collections.abc import Sequence

from reports.groups import Group
from reports.runs import load_run
from studies.pages.rlhf import read_fresh
from studies.pages.table import preface
from studies.readings import Reading, markdown_table
from studies.study import ROOT, SEED, Cell, Study

CHOICE = Reading("accuracy, 200 problems", "task/accuracy")
"""What settings are chosen by, at the last step."""


def write(study: Study) -> None:
    """Write table.md: what the tuning chose, and what came of it."""
    tuning = str(study.settings["tuning_seed"])
    readings = [Reading.of(given) for given in study.settings["tables"][0]["rows"]]
    chosen = {method: choose(study, method, tuning) for method in methods_of(study)}
    tested = {method: _tested(study, method, rate, tuning) for method, rate in chosen.items() if rate is not None}
    read_fresh([cell for cells in tested.values() for cell in cells])
    rows = [
        [str(study.grid["method"][method].title), str(chosen[method]), str(len(cells)), *_cells(cells, readings)]
        for method, cells in tested.items()
    ]
    table = markdown_table(["", "learning rate", "seeds", *(reading.heading for reading in readings)], rows)
    sections = [
        f"# {study.title}",
        preface(study),
        "Accuracy: 500 fresh problems.",
        table,
        "## Tuning",
        tuning_table(study, tuning),
    ]
    (study.out / "table.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def methods_of(study: Study) -> list[str]:
    """Those that have runs: a quick study leaves some out."""
    return list(dict.fromkeys(cell.levels["method"] for cell in study.cells))


def choose(study: Study, method: str, tuning: str) -> str | None:
    """The better learning rate, the first of those that tie; None where a setting was not tried: the budget would not be equal."""
    tried = {cell.levels["rate"]: cell for cell in study.select({"method": [method], SEED: [tuning]})}
    if not all(cell.is_complete for cell in tried.values()):
        return None
    accuracies = {rate: float(CHOICE.values(_group([cell]))[0]) for rate, cell in tried.items()}
    return max(accuracies, key=lambda rate: accuracies[rate])


def tuning_table(study: Study, tuning: str) -> str:
    """Accuracy of every setting that was tried."""
    rates = list(study.grid["rate"])
    rows = []
    for method in methods_of(study):
        cells = {cell.levels["rate"]: cell for cell in study.select({"method": [method], SEED: [tuning]})}
        shown = [CHOICE.cell(_group([cells[rate]])) if cells[rate].is_complete else "not tried" for rate in rates]
        rows.append([str(study.grid["method"][method].title), *shown])
    return f"Seed {tuning}, {CHOICE.heading}:\n\n" + markdown_table(["", *rates], rows)


def _tested(study: Study, method: str, rate: str, tuning: str) -> list[Cell]:
    cells = study.select({"method": [method], "rate": [rate]})
    return [cell for cell in cells if cell.levels[SEED] != tuning and cell.is_complete]


def _cells(cells: Sequence[Cell], readings: Sequence[Reading]) -> list[str]:
    group = _group(cells)
    return [reading.cell(group) for reading in readings]


def _group(cells: Sequence[Cell]) -> Group:
    return Group("", tuple(load_run(ROOT / cell.folder) for cell in cells))
