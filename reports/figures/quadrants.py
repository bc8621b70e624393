"""Figure of the pairs in the plane of (change of chosen, change of rejected): the paper's Property 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import group_colour
from reports.plot import Plot
from reports.style import FAINT, GREEN, ORANGE, PURPLE, SKY, level_line, make_room, new_figure, styled

CHANGES = ("likelihood/bank/chosen/change_per_token", "likelihood/bank/rejected/change_per_token")

QUADRANTS = {
    "chosen_up_rejected_down": ("chosen up, rejected down", GREEN),
    "both_up": ("both up", SKY),
    "chosen_down_rejected_up": ("chosen down, rejected up", ORANGE),
    "both_down": ("both down", PURPLE),
}
_HATCHES = ("", "..", "xx", "//")


def draw(groups: Sequence[Group]) -> Figure | None:
    """The path of the mean pair, and the share of the pairs in each quadrant at the end."""
    paths = [group for group in groups if all(group.curve(name) for name in CHANGES)]
    shares = [group for group in groups if group.curve("degradation/quadrant/both_down")]
    if not paths and not shares:
        return None
    figure, axes = new_figure(bool(paths) + bool(shares), columns=2, height=3.4)
    with styled():
        if paths:
            _draw_paths(axes[0], paths, groups)
            make_room(figure, max(0, len(paths) - 2))
        if shares:
            _draw_shares(axes[-1], shares, is_named=len(groups) > 1)
    return figure


def _draw_paths(axes: Axes, shown: Sequence[Group], groups: Sequence[Group]) -> None:
    for group in shown:
        chosen, rejected = (group.curve(name) for name in CHANGES)
        assert chosen is not None, "callers show groups that have both"
        assert rejected is not None, "callers show groups that have both"
        colour = group_colour(groups.index(group))
        axes.plot(chosen.mean, rejected.mean, "o-", color=colour, markersize=2.6, label=group.label)
        axes.plot(chosen.mean[-1:], rejected.mean[-1:], "D", color=colour, markersize=6)
        for x, y in zip(chosen.values[-1], rejected.values[-1], strict=True):
            axes.plot([chosen.mean[-1], x], [rejected.mean[-1], y], color=colour, linewidth=0.7)
    level_line(axes, 0)
    axes.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
    across, along = (1.3 * max(map(abs, limits)) for limits in (axes.get_xlim(), axes.get_ylim()))
    axes.set(xlim=(-across, across), ylim=(-along, along))
    axes.set(title="Path of the mean pair, to the diamond", xlabel="change of chosen, nats per token")
    axes.set_ylabel("change of rejected, nats per token")
    corners = {"what was asked for": (0.98, 0.03), "suppression": (0.02, 0.03), "both up": (0.98, 0.93), "wrong way": (0.02, 0.93)}
    for text, (x, y) in corners.items():
        axes.text(x, y, text, transform=axes.transAxes, ha="right" if x > 0.5 else "left", color=FAINT, fontsize=8.5)
    if len(shown) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _draw_shares(axes: Axes, groups: Sequence[Group], *, is_named: bool) -> None:
    places = np.arange(len(groups))[::-1]
    left = np.zeros(len(groups))
    for (name, (label, colour)), hatch in zip(QUADRANTS.items(), _HATCHES, strict=True):
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
        curves = [group.curve(f"degradation/quadrant/{name}") for group in groups]
        ends = np.array([0.0 if curve is None else curve.mean[-1] for curve in curves])
        axes.barh(places, ends, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.8, height=0.6, label=label)
        for place, start, end in zip(places, left, ends, strict=True):
            if end >= 0.08:
                axes.text(start + end / 2, place, f"{end:.0%}", ha="center", va="center", color="white", weight="bold", bbox=box)
        left += ends
    axes.set(title="Training pairs by quadrant, last reading", xlim=(0, 1), xlabel="share of pairs", ylim=(-0.5, len(groups) - 0.5))
    axes.set_yticks(places, [group.label for group in groups] if is_named else [""])
    axes.grid(visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


PLOT = Plot(
    name="quadrants",
    title="Degradation: in which direction the pairs moved",
    meaning=(
        "Down and to the right is what a preference asks for: chosen up, rejected down. Down and to the left both fall: the model "
        "unlearns its answers. Pairs may pass through this quadrant; it is a failure if they stay."
    ),
    needs=("degradation/quadrant/", *CHANGES),
    callback="callbacks.diagnostics.degradation.DegradationMonitor",
    draw=draw,
)
