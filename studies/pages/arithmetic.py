"""The page of the four scenarios: the report's figures and table, and one figure that shows the three properties to a stranger."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import plot_curve
from reports.style import BLUE, DASHES, FAINT, GREEN, INK, VERMILION, level_line, new_figure, styled
from studies.pages import report
from studies.readings import groups_of
from studies.study import ROOT, Study

DPO, REMEDY = "DPO, scenario 1", "SFT-DPO, scenario 1"
BANK = "likelihood/bank"
PANELS: Mapping[tuple[str, str], Mapping[str, tuple[str, str]]] = {
    ("1  Drastic drop", "the rejected answer collapses (nats)"): {
        "chosen": (f"{BANK}/chosen/change", BLUE),
        "rejected": (f"{BANK}/rejected/change", VERMILION),
    },
    ("2  Degradation", "the chosen answer falls too (nats)"): {"chosen": (f"{BANK}/chosen/change", BLUE)},
    ("3  Dispersion", "mass goes to answers in neither"): {"off the pair": ("dispersion/bank/off_pair_mass", GREEN)},
    ("What it costs", "share of new problems solved"): {"accuracy": ("task/accuracy", INK)},
}
"""(title, what is drawn) -> {line: (metric, colour)}."""


def write(study: Study) -> None:
    """Write the report's files, and properties.png, which the README shows, where both runs are complete."""
    report.write(study)
    groups = {group.label: group for group in groups_of(study)}
    if {DPO, REMEDY} <= set(groups):
        path = study.out / "properties.png" if study.is_quick else ROOT / "docs" / "properties.png"
        properties(groups[DPO], groups[REMEDY]).savefig(path, dpi=130, facecolor="white")


def properties(dpo: Group, remedy: Group) -> Figure:
    """DPO drawn out, the same with a likelihood term dashed: the mean over seeds in a band from the lowest to the highest."""
    figure, axes = new_figure(len(PANELS), columns=4, height=2.9)
    with styled():
        for own, ((title, shown), lines) in zip(axes, PANELS.items(), strict=True):
            for label, (metric, colour) in lines.items():
                _draw(own, dpo, metric, colour, label if len(lines) > 1 else "")
                _draw(own, remedy, metric, colour, "", is_remedy=True)
            own.set_title(f"{title}\n{shown}", fontsize=10)
            own.set_xlabel("optimizer step")
        for own in axes[:2]:
            level_line(own, 0)
        axes[3].set_ylim(0, 1)
        axes[3].plot([], [], color=FAINT, label="DPO")
        axes[3].plot([], [], color=FAINT, linestyle=DASHES[1], label="with a likelihood term")
        axes[3].legend(loc="lower left")
        axes[0].legend(loc="lower left")
    return figure


def _draw(axes: Axes, group: Group, metric: str, colour: str, label: str, *, is_remedy: bool = False) -> None:
    curve = group.curve(metric)
    if curve is not None:
        plot_curve(axes, curve, colour=colour, dashes=DASHES[1] if is_remedy else DASHES[0], label=label)
