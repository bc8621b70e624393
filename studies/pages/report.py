"""A page from the figures and the table of `report.py`: every figure that the runs have, and first against last readings."""

from __future__ import annotations

from reports.catalogue import PLOTS
from reports.sections.start_end import markdown_table
from studies.pages.table import preface
from studies.readings import groups_of
from studies.study import Study


def write(study: Study) -> None:
    """Write table.md and a PNG a figure."""
    groups = groups_of(study)
    text = f"# {study.title}\n\n{preface(study)}\n\n{markdown_table(groups)}"
    (study.out / "table.md").write_text(text, encoding="utf-8")
    for plot in PLOTS:
        figure = plot.draw(groups)
        if figure is not None:
            figure.savefig(study.out / f"{plot.name}.png", dpi=110, facecolor="white")
