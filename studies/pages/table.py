"""A page from the study's YAML alone: tables of readings, differences seed by seed, and panels of curves.

Settings, all optional:

    out: folder within docs/results (the study's name)
    file: of the tables (table.md), figure: of the panels (curves.png)
    over: factors whose levels are the members of a group ([seed])
    tables: [{title, rows: [readings], only: {factor: [levels]}}]; a reading is one of `studies.readings.Reading`
    against: {reading: heading, groups: [titles]}: that reading less that of a group, for members that both have
    panels: [{title, unit, lines: {label: [metrics]}, is_log, is_change, level}]
    not_drawn: [titles] of groups that the figure leaves out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reports.groups import Group
from reports.panels import Line, Panel, Source, draw_panels
from studies.readings import Floats, Reading, groups_of, markdown_table, spread
from studies.study import SEED, Cell, Study, matches


def write(study: Study) -> None:
    """Write the tables, and the figure where there are panels."""
    settings = study.settings
    over = tuple(settings.get("over", (SEED,)))
    groups = groups_of(study, over)
    sections = [f"# {study.title}", preface(study, over)]
    for table in settings.get("tables", ()):
        sections += [f"## {table['title']}"] if "title" in table else []
        sections.append(readings_table(study, groups, table, over))
    if "against" in settings:
        sections.append(differences(study, groups, over))
    path = study.out / settings.get("file", "table.md")
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    draw(study, groups)


def preface(study: Study, over: Sequence[str] = (SEED,)) -> str:
    """How the numbers came about, in the first lines of a page."""
    quick = "**Quick: a subset of the grid.** " if study.is_quick else ""
    made = sum(cell.is_complete for cell in study.cells)
    command = f"python -m studies page {study.name}{' --quick' if study.is_quick else ''}"
    return f"{quick}Mean ± standard deviation over {' and '.join(over)}; {made} of {len(study.cells)} runs. Written by `{command}`."


def readings_table(study: Study, groups: Sequence[Group], table: Mapping[str, Any], over: Sequence[str]) -> str:
    """A row a group, a column a reading."""
    only, readings = table.get("only", {}), _readings(table["rows"])
    kept = {title for title, cells in study.groups(over).items() if matches(cells[0].levels, only)}
    rows = [
        [group.label, str(_members(group, readings)), *(reading.cell(group) for reading in readings)]
        for group in groups
        if group.label in kept
    ]
    return markdown_table(["", "seeds", *(reading.heading for reading in readings)], rows)


def differences(study: Study, groups: Sequence[Group], over: Sequence[str]) -> str:
    """A reading less that of other groups, for the members that both have."""
    against = study.settings["against"]
    [reading] = [own for own in _readings(study.settings["tables"][0]["rows"]) if own.heading == against["reading"]]
    cells = study.groups(over)
    values = {group.label: _by_member(group, reading, cells[group.label], over) for group in groups}
    others = [title for title in against["groups"] if title in values]
    rows = [
        [title, *("" if title == other else spread(_paired(own, values[other]), is_signed=True) for other in others)]
        for title, own in values.items()
    ]
    return f"{reading.heading}, less that of another group, seed by seed:\n\n" + markdown_table(["", *others], rows)


def draw(study: Study, groups: Sequence[Group]) -> None:
    """The panels over steps, all groups laid over one another."""
    settings = study.settings
    shown = [group for group in groups if group.label not in settings.get("not_drawn", ())]
    figure = draw_panels(shown, [_panel(given) for given in settings.get("panels", ())])
    if figure is not None:
        figure.savefig(study.out / Path(settings.get("figure", "curves.png")), dpi=110, facecolor="white")


def _panel(given: Mapping[str, Any]) -> Panel:
    transform = _change if given.get("is_change") else None
    lines = [
        Line(label, tuple(Source(name, transform) for name in ([metrics] if isinstance(metrics, str) else metrics)))
        for label, metrics in given["lines"].items()
    ]
    return Panel(given["title"], given["unit"], tuple(lines), bool(given.get("is_log")), given.get("level"))


def _change(values: Floats) -> Floats:
    return values - values[:1]


def _readings(given: Sequence[dict[str, Any]]) -> list[Reading]:
    return list(map(Reading.of, given))


def _members(group: Group, readings: Sequence[Reading]) -> int:
    return max((reading.values(group).size for reading in readings), default=len(group.runs))


def _by_member(group: Group, reading: Reading, cells: Sequence[Cell], over: Sequence[str]) -> dict[tuple[str, ...], float]:
    """The reading of every member by its levels of `over`, and its number where a run holds several seeds."""
    found = {}
    for cell, run in zip(cells, group.runs, strict=True):
        key = tuple(cell.levels.get(factor, "") for factor in over)
        for number, value in enumerate(reading.values(Group(group.label, (run,)))):
            found[*key, str(number)] = float(value)
    return found


def _paired(own: Mapping[tuple[str, ...], float], other: Mapping[tuple[str, ...], float]) -> Floats:
    return np.array([value - other[member] for member, value in own.items() if member in other])
