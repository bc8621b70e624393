"""The page of the losses on poems: five dimensions by rule, each loss at the rate that half of the titles chose."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from studies.files import load_study
from studies.pages.poems import dimension_cells, outcome_rows, percent
from studies.readings import markdown_table
from studies.study import Cell, Study

GRADE = "task/score"


def write(study: Study) -> None:
    """Write the table of every loss and scenario whose rates were all tried.

    Raises:
        ValueError: if there is none.
    """
    runs, split = load_study(study.settings["runs"]), int(study.settings["tuning_problems"])
    best = {cell.title.rpartition(",")[0]: cell for cell in chosen(runs, split)}
    if not best:
        raise ValueError(
            f"expected runs of {runs.name} at every rate of a loss, got none. Make them: python -m studies run {runs.name}"
        )
    before = outcome_rows(next(iter(best.values())))[0]
    dimensions = study.settings["dimensions"]
    rows = [["before training", "", *dimension_cells([before], dimensions), percent([before[GRADE][split:]])]]
    for title, cell in best.items():
        after = outcome_rows(cell)[-1]
        rate = f"{float(cell.levels['rate']):g}"
        rows.append([title, rate, *dimension_cells([after], dimensions), percent([after[GRADE][split:]])])
    text = (
        f"Percent of {len(before[GRADE])} held-out titles, greedy, with 95% bootstrap intervals over them; the last column is the "
        f"grade of the titles from {split + 1} on, which chose nothing. Written by `python -m studies page {study.name}`."
    )
    heading = ["", "learning rate", *dimensions.values(), "grade of the other half"]
    page = "\n\n".join([f"# {study.title}", text, markdown_table(heading, rows)])
    (study.out / study.settings["file"]).write_text(page + "\n", encoding="utf-8")


def chosen(runs: Study, split: int) -> Iterable[Cell]:
    """The run at the best rate of each loss and scenario, the lowest of those that tie."""
    for method in runs.grid["method"]:
        for scenario in runs.grid["scenario"]:
            tried = runs.select({"method": [method], "scenario": [scenario]})
            if all(cell.is_complete for cell in tried):
                yield max(tried, key=lambda cell: float(np.mean(outcome_rows(cell)[-1][GRADE][:split])))
