"""The page of the poems: five dimensions by rule before training and after each method, with intervals over titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from callbacks.mathematics.bootstrap import bootstrap_interval
from run_folder.rows import read_rows
from studies.pages.table import preface
from studies.readings import Reading, groups_of, markdown_table
from studies.study import ROOT, Cell, Study
from studies.verdict.outcome import OUTCOME_ROWS

LEVEL, NUM_RESAMPLES = 0.95, 1000
Row = Mapping[str, Any]


def write(study: Study) -> None:
    """Write table.md: the dimensions, then what happened to the likelihoods."""
    dimensions = study.settings["dimensions"]
    readings = [Reading.of(given) for given in study.settings["readings"]]
    groups = study.groups()
    before = outcome_rows(next(iter(groups.values()))[0])[0]
    rows = [["SFT, before training", "", *_all_cells([before], dimensions)]]
    rows += [
        [title, str(len(cells)), *_all_cells([outcome_rows(cell)[-1] for cell in cells], dimensions)]
        for title, cells in groups.items()
    ]
    moved = [[group.label, *(reading.cell(group) for reading in readings)] for group in groups_of(study)]
    sections = [
        f"# {study.title}",
        preface(study),
        f"Percent of {len(before['task/score'])} held-out titles, greedy; in brackets a 95% bootstrap interval over the titles of "
        "a seed, its ends averaged over seeds.",
        markdown_table(["", "seeds", *dimensions.values(), "grade", "tokens"], rows),
        "On the frozen probe bank:",
        markdown_table(["", *(reading.heading for reading in readings)], moved),
    ]
    (study.out / "table.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def outcome_rows(cell: Cell) -> list[dict[str, Any]]:
    """Every title's grades at each reading."""
    return read_rows(ROOT / cell.folder, OUTCOME_ROWS)


def _all_cells(rows: Sequence[Row], dimensions: Mapping[str, str]) -> list[str]:
    length = np.mean([np.mean(row["task/length"]) for row in rows])
    return [*dimension_cells(rows, dimensions), percent([row["task/score"] for row in rows]), f"{length:.1f}"]


def dimension_cells(rows: Sequence[Row], dimensions: Mapping[str, str]) -> list[str]:
    """Each dimension of the poems of one seed or more."""
    return [percent([row[f"task/{name}"] for row in rows]) for name in dimensions]


def percent(seeds: Sequence[Sequence[float]]) -> str:
    """Mean over seeds, and the interval over the titles of one."""
    means = [100 * float(np.mean(values)) for values in seeds]
    ends = [bootstrap_interval([100 * np.asarray(values)], level=LEVEL, num_resamples=NUM_RESAMPLES, seed=0) for values in seeds]
    low, high = np.mean(ends, axis=0)
    spread = f" ± {np.std(means, ddof=1):.1f}" if len(means) > 1 else ""
    return f"{np.mean(means):.1f}{spread} [{low:.1f}, {high:.1f}]"
