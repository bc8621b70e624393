"""Draws curves over steps with several runs laid over one another, as most figures of the report need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reports.groups import Curve, Group, Transform
from reports.style import COLOURS, DASHES, INK, SAMPLES, SIDES, level_line, make_room, new_figure, styled

_FEW = 30

_MEANT = SIDES | {kind.replace("_", " "): colour for kind, colour in SAMPLES.items()}
"""Colours of labels that mean the same on the whole page."""

_Dashes = Any
"""What matplotlib takes for the style of a line; its own type leaves out half of it."""


@dataclass(frozen=True)
class Source:
    """A metric, and what is done to its values before they are drawn."""

    metric: str
    transform: Transform | None = None


@dataclass(frozen=True)
class Line:
    """One line of a panel, from the first of its sources that a run has."""

    label: str
    sources: tuple[Source, ...]

    def curve(self, group: Group) -> Curve | None:
        """What this line shows of a group."""
        curves = (group.curve(source.metric, source.transform) for source in self.sources)
        return next((curve for curve in curves if curve is not None), None)


@dataclass(frozen=True)
class Panel:
    """Lines that share axes."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    is_log: bool = False
    level: float | None = None
    """A value that means something, drawn as a thin line."""

    def colour(self, number: int) -> str:
        """Colour of one of its lines where a single group is drawn; the sides of a pair have the same colours everywhere."""
        others = [own.label for own in self.lines if own.label not in _MEANT]
        label = self.lines[number].label
        return _MEANT[label] if label in _MEANT else group_colour(others.index(label))

    def has(self, group: Group) -> bool:
        """Whether a group has any of the lines."""
        return any(line.curve(group) is not None for line in self.lines)


def line(label: str, *metrics: str) -> Line:
    """A line straight from the first of `metrics` that a run has."""
    return Line(label, tuple(Source(metric) for metric in metrics))


def draw_panels(groups: Sequence[Group], panels: Sequence[Panel], columns: int = 3) -> Figure | None:
    """The panels that any group has; None where none has any.

    The lines of a single group take the colours, the sides of a pair always their own; with several groups each has a colour, and
    lines differ in their dashes. A line is the mean, its band the range over the members of the group.
    """
    shown = [panel for panel in panels if any(panel.has(group) for group in groups)]
    if not shown:
        return None
    figure, axes = new_figure(len(shown), columns=columns)
    with styled():
        for own, panel in zip(axes, shown, strict=True):
            _draw_panel(own, groups, panel)
        if len(groups) > 1:
            handles = [
                Line2D([], [], color=group_colour(number), linestyle=DASHES[_turn(number)], label=group.label)
                for number, group in enumerate(groups)
            ]
            abreast = min(len(groups), len(shown), 3)
            figure.legend(handles=handles, loc="outside lower center", ncols=abreast)
            make_room(figure, -(-len(groups) // abreast))
    return figure


def group_colour(number: int) -> str:
    """Colour of a group; they repeat after six, where the dashes change."""
    return COLOURS[number % len(COLOURS)]


def _turn(number: int) -> int:
    """How often the colours have repeated before a group."""
    return number // len(COLOURS) % len(DASHES)


def plot_curve(axes: Axes, curve: Curve, *, colour: str, dashes: _Dashes = "-", label: str = "") -> None:
    """Mean and range; points too where they are few, and the number itself where there is one."""
    is_alone = len(curve.steps) == 1
    marker, size = "o" if len(curve.steps) <= _FEW else "", 7 if is_alone else 2.6
    axes.plot(curve.steps, curve.mean, color=colour, linestyle=dashes, marker=marker, markersize=size, label=label)
    if is_alone:
        place = (float(curve.steps[0]), float(curve.mean[0]))
        axes.annotate(f"{place[1]:.3g}", place, (8, 0), textcoords="offset points", va="center", color=colour)
    if curve.has_band:
        axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _draw_panel(axes: Axes, groups: Sequence[Group], panel: Panel) -> None:
    lines = [line for line in panel.lines if any(line.curve(group) is not None for group in groups)]
    for number, own in enumerate(lines):
        for position, group in enumerate(groups):
            curve, dashes = own.curve(group), DASHES[(number + _turn(position)) % len(DASHES)]
            if curve is not None:
                colour = group_colour(position) if len(groups) > 1 else panel.colour(panel.lines.index(own))
                # The legend has words of its own: these are read where the curve is pointed at.
                label = ", ".join(filter(None, (group.label if len(groups) > 1 else "", own.label if len(lines) > 1 else "")))
                plot_curve(axes, curve, colour=colour, dashes=dashes, label=label or own.label)
    if panel.level is not None:
        level_line(axes, panel.level)
    if panel.is_log:
        axes.set_yscale("log")
    axes.set(title=panel.title, xlabel="step", ylabel=panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    first, last = axes.get_xlim()
    if last - first < 1:
        # One step alone: without a width of its own matplotlib shows a hundredth of a step.
        axes.set_xlim(round(first) - 1, round(last) + 1)
    if len(lines) > 1:
        colours = [panel.colour(panel.lines.index(own)) if len(groups) == 1 else INK for own in lines]
        _legend(axes, [own.label for own in lines], colours)


def _legend(axes: Axes, labels: Sequence[str], colours: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=DASHES[number % len(DASHES)], label=label)
        for number, (label, colour) in enumerate(zip(labels, colours, strict=True))
    ]
    axes.legend(handles=handles, loc="best", handlelength=2.6)
