"""Figure of the policy's accuracy on its task, by the task's judge."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot


def draw(groups: Sequence[Group]) -> Figure | None:
    """Every metric named `.../accuracy`, a panel each."""
    names = dict.fromkeys(name for group in groups for name in group.metrics() if name.endswith("/accuracy"))
    return draw_panels(groups, [Panel(name, "share solved", (line(name, name),)) for name in names])


PLOT = Plot(
    name="task_accuracy",
    title="Does the policy still do its task?",
    meaning="Share of held-out problems that a judge accepts. Compare the likelihoods below with it.",
    needs=("task/accuracy",),
    callback="callbacks.diagnostics.accuracy.AccuracyMonitor",
    draw=draw,
    is_optional=True,
)
