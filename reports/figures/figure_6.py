"""The paper's Figures 6 and 10 for these runs: log gradients in the likelihood on a language model, with length taken out."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.missing import has_no_likelihood_slopes
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot
from reports.style import SIDES

PANELS = (
    Panel(
        "As the paper draws it",
        "log |dl/dπ|, nats",
        tuple(line(side, f"softmax_grad/{side}/log_pi_gradient") for side in SIDES),
    ),
    Panel(
        "Length taken out",
        "nats per token",
        tuple(line(side, f"softmax_grad/{side}/log_pi_gradient_per_token") for side in SIDES),
    ),
    Panel(
        "What training added: rejected over chosen",
        "log ratio, nats",
        (line("since the reference", "softmax_grad/corollary1_from_reference"),),
        level=0,
    ),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Log gradients of both sides, per token, and their ratio since the reference."""
    return draw_panels(groups, PANELS)


PLOT = Plot(
    name="figure_6",
    title="The paper's Figures 6 and 10: log gradients on the language model",
    meaning=(
        "Left: the paper's plot; its gap at step 0 only shows that rejected texts are longer. Middle: the same without the "
        "lengths. Right: what training added. If it is above 0 and rises, rejected becomes ever less likely."
    ),
    needs=tuple(f"softmax_grad/{side}/log_pi_gradient" for side in SIDES),
    callback="callbacks.diagnostics.softmax_gradient.SoftmaxGradientMonitor",
    draw=draw,
    has_none=has_no_likelihood_slopes,
    reads="losses of the likelihoods of a prompt's answers",
)
