"""Figure of the paper's Property 1: how the margin grew, by the chosen side rising or the rejected side falling."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot

PANELS = (
    Panel(
        "Drop share of the margin",
        "share",
        (line("probe bank", "likelihood/bank/drop_share"), line("training pairs", "likelihood/drop_share")),
        level=1,
    ),
    Panel(
        "Drop gap",
        "nats per token",
        (line("probe bank", "likelihood/bank/drop_gap"), line("training pairs", "likelihood/drop_gap")),
        level=0,
    ),
    Panel(
        "Rejected tokens in the valley (p < 0.001)",
        "share",
        (line("probe bank", "likelihood/bank/rejected/valley"), line("training pairs", "likelihood/rejected/valley")),
    ),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Drop share, drop gap, valley."""
    return draw_panels(groups, PANELS)


PLOT = Plot(
    name="drop",
    title="Drastic drop: who paid for the margin",
    meaning=(
        "Drop share 0: the margin grew because chosen rose. 1: because rejected fell. Above 1: chosen fell too. The gap is the "
        "rejected side's change minus the chosen side's; a lower gap is a more drastic drop."
    ),
    needs=("likelihood/",),
    callback="callbacks.diagnostics.likelihood.LikelihoodMonitor",
    draw=draw,
)
