"""The gradient at the logits, chosen against rejected."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import Line, Panel, draw_panels, line
from reports.plot import Plot
from reports.style import SAMPLES, SIDES

KINDS = (*SIDES, *SAMPLES, "ranked")


def _of_each(norm: str) -> tuple[Line, ...]:
    return tuple(line(kind.replace("_", " "), f"softmax_grad/{kind}/{norm}") for kind in KINDS)


PANELS = (
    Panel("A completion's gradient", "L2 at the logits", _of_each("norm"), is_log=True),
    Panel("A token's gradient", "L2 at the logits", _of_each("l2"), is_log=True),
    Panel(
        "Rejected over chosen",
        "ratio of norms",
        (line("completion", "softmax_grad/asymmetry"), line("token", "softmax_grad/asymmetry_per_token")),
        is_log=True,
        level=1,
    ),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Norms of both sides on a logarithmic scale, and their ratio."""
    return draw_panels(groups, PANELS)


PLOT = Plot(
    name="gradient_asymmetry",
    title="Gradient asymmetry at the logits",
    meaning=(
        "The gradient that reaches the network, on a logarithmic scale. Where the ratio is 1 both sides get the same push; above 1 "
        "the rejected side gets more. Both fall as the loss is satisfied. Where rewards train, the sides are sampled answers above "
        "and below the mean score of their prompt."
    ),
    needs=("softmax_grad/",),
    callback="callbacks.diagnostics.softmax_gradient.SoftmaxGradientMonitor",
    draw=draw,
)
