"""The page of the methods: each at the setting that one seed chose, read with other seeds and on other problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from reports.groups import Group
from reports.runs import load_run
from studies.pages.table import preface
from studies.readings import Reading, markdown_table, spread
from studies.study import ROOT, SEED, Cell, Study
from studies.verdict.outcome import accuracies

BASELINE = "dpo"
"""The method that the others are compared with, seed by seed."""


def write(study: Study) -> None:
    """Write table.md: what the tuning chose, and what came of it, the best method first."""
    readings = [Reading.of(given) for given in study.settings["tables"][0]["rows"]]
    chosen = {method: choose(study, method) for method in methods_of(study)}
    tested = {method: _tested(study, method, rate) for method, rate in chosen.items() if rate is not None}
    tested = {method: cells for method, cells in tested.items() if cells}
    ordered = sorted(tested, key=lambda method: -mean(accuracy(cell) for cell in tested[method]))
    rows = [
        [_title(study, method), str(chosen[method]), *_accuracy_cells(tested, method), *_readings(tested[method], readings)]
        for method in ordered
    ]
    headings = ["", "learning rate", "seeds", "accuracy", "change, points", "less DPO's, points"]
    sections = [
        f"# {study.title}",
        preface(study),
        f"Accuracy: held-out problems from {_split(study) + 1} on, which chose nothing; the best first. The setting that was "
        "not chosen was not run with the other seeds.",
        markdown_table([*headings, *(reading.heading for reading in readings)], rows),
        "## Tuning",
        tuning_table(study),
    ]
    (study.out / "table.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def methods_of(study: Study) -> list[str]:
    """Those that have runs: a quick study leaves some out."""
    return list(dict.fromkeys(cell.levels["method"] for cell in study.cells))


def choose(study: Study, method: str) -> str | None:
    """The better learning rate, the first of those that tie; None where a setting was not tried: the budget would not be equal."""
    tried = _tuning_cells(study, method)
    if not all(cell.is_complete for cell in tried.values()):
        return None
    return max(tried, key=lambda rate: tuning_accuracy(tried[rate]))


def is_needed(cell: Cell) -> bool:
    """Every setting with the tuning seed; with the others the chosen one alone."""
    is_tuning = cell.levels[SEED] == str(cell.study.settings["tuning_seed"])
    return is_tuning or choose(cell.study, cell.levels["method"]) == cell.levels["rate"]


def tuning_accuracy(cell: Cell) -> float:
    """What settings are chosen by: on the first problems, at the last step."""
    return accuracies(cell, slice(_split(cell.study)))[-1]


def accuracy(cell: Cell) -> float:
    """On the other problems, at the last step."""
    return accuracies(cell, slice(_split(cell.study), None))[-1]


def tuning_table(study: Study) -> str:
    """Accuracy of every setting that was tried."""
    rates = list(study.grid["rate"])
    rows = []
    for method in methods_of(study):
        tried = _tuning_cells(study, method)
        shown = [f"{tuning_accuracy(tried[rate]):.3f}" if tried[rate].is_complete else "not tried" for rate in rates]
        rows.append([_title(study, method), *shown])
    heading = f"Seed {study.settings['tuning_seed']}, accuracy on the first {_split(study)} problems:"
    return f"{heading}\n\n" + markdown_table(["", *rates], rows)


def _split(study: Study) -> int:
    return int(study.settings["tuning_problems"])


def _title(study: Study, method: str) -> str:
    return str(study.grid["method"][method].title)


def _tuning_cells(study: Study, method: str) -> dict[str, Cell]:
    cells = study.select({"method": [method], SEED: [str(study.settings["tuning_seed"])]})
    return {cell.levels["rate"]: cell for cell in cells}


def _tested(study: Study, method: str, rate: str) -> list[Cell]:
    cells = study.select({"method": [method], "rate": [rate]})
    return [cell for cell in cells if cell.levels[SEED] != str(study.settings["tuning_seed"]) and cell.is_complete]


def _accuracy_cells(tested: Mapping[str, Sequence[Cell]], method: str) -> list[str]:
    """How many seeds; the accuracy; less that before training; less that of DPO with the same seed."""
    own = {cell.levels[SEED]: accuracy(cell) for cell in tested[method]}
    before = [accuracies(cell, slice(_split(cell.study), None))[0] for cell in tested[method]]
    changes = [100 * (value - start) for value, start in zip(own.values(), before, strict=True)]
    dpo = {cell.levels[SEED]: accuracy(cell) for cell in tested.get(BASELINE, ())}
    less = [100 * (value - dpo[seed]) for seed, value in own.items() if seed in dpo and method != BASELINE]
    return [str(len(own)), spread(list(own.values())), spread(changes, 1, is_signed=True), spread(less, 1, is_signed=True)]


def _readings(cells: Sequence[Cell], readings: Sequence[Reading]) -> list[str]:
    group = Group("", tuple(load_run(ROOT / cell.folder) for cell in cells))
    return [reading.cell(group) for reading in readings]
