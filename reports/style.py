"""The common style of all figures: Okabe and Ito's colours, which every colour vision tells apart, and one font size."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT = "#24292f", "#8c959f"
"""Text and axes; grid and reference lines."""

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"

SIDES = {"chosen": BLUE, "rejected": VERMILION}
"""What two of the colours mean, wherever they stand."""

SAMPLES = {"sample_above": BLUE, "sample_below": VERMILION}
"""In place of the sides where rewards train: a prompt's sampled answers that score above the mean of its answers, and below."""

COLOURS = (GREEN, PURPLE, ORANGE, SKY, INK, FAINT)
"""Colours of runs, or of a single run's lines that are no side of a pair, in order."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
"""Twins of the colours, for readers who see none."""

DARK_TWINS = {INK: "#e6edf3", FAINT: "#6e7681", BLUE: "#58a6e0", VERMILION: "#f0883e", GREEN: "#3fbf95"}
"""What a page on a dark ground shows instead."""

_RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
    "svg.fonttype": "path",
    "svg.hashsalt": "prefscope",
}


def styled() -> AbstractContextManager[None]:
    """Within it figures are drawn, and saved, in the report's style."""
    return mpl.rc_context(_RC)


def new_figure(panels: int, *, columns: int = 3, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure of `panels` axes in rows of `columns` at the most; without pyplot, so that nothing is kept or shown."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    with styled():
        figure = Figure(figsize=(3.75 * columns + 0.35, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = [figure.add_subplot(rows, columns, number + 1) for number in range(panels)]
    for own in axes:
        own.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    return figure, axes


def make_room(figure: Figure, lines: int) -> None:
    """Make a figure higher by lines of a legend, so that the axes keep their size."""
    figure.set_figheight(figure.get_figheight() + 0.2 * lines)


def level_line(axes: Axes, level: float) -> None:
    """A thin line at a value that means something."""
    axes.axhline(level, color=FAINT, linewidth=0.9, zorder=1)
