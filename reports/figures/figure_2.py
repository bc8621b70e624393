"""The paper's Figure 2 for these runs: likelihoods, gradients in pi, and the rejected likelihood in decades."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reports.groups import Floats, Group
from reports.panels import Line, Panel, Source, draw_panels
from reports.plot import Plot
from reports.style import SIDES


def decades(nats: Floats) -> Floats:
    """Natural logarithms as decimal ones."""
    return nats / math.log(10)


def _likelihood(side: str) -> Line:
    return Line(side, (Source(f"toy/own_{side}"), Source(f"likelihood/bank/{side}/logp_per_token", np.exp)))


def _gradient(side: str) -> Line:
    return Line(side, (Source(f"toy/gradient/log10_pi/{side}"), Source(f"softmax_grad/{side}/log_pi_gradient", decades)))


def _decimal(side: str) -> Line:
    return Line(side, (Source(f"toy/own_{side}", np.log10), Source(f"likelihood/bank/{side}/logp", decades)))


OFF_PAIR = Line("outside the pair", (Source("toy/papers_unseen"), Source("likelihood/bank/other_chosen/logp_per_token", np.exp)))

PANELS = (
    Panel("Likelihood (a token's, geometric mean)", "probability", (*(_likelihood(side) for side in SIDES), OFF_PAIR)),
    Panel("Gradient in the likelihood", "log10 |dl/dπ|", tuple(_gradient(side) for side in SIDES)),
    Panel("Likelihood in decades", "log10 π", tuple(_decimal(side) for side in SIDES)),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Likelihoods, gradients in pi, decades."""
    return draw_panels(groups, PANELS)


PLOT = Plot(
    name="figure_2",
    title="The paper's Figure 2: the gradient explodes where the likelihood vanishes",
    meaning=(
        "Left: the likelihoods of the pair. Middle: the slope of the loss in the likelihood; the rejected side's rises as its "
        "likelihood (right) falls, since dl/dπ = d/π. On a language model most of it is there at step 0, because texts are long."
    ),
    needs=("softmax_grad/", "toy/", "likelihood/bank/"),
    callback="callbacks.diagnostics.softmax_gradient.SoftmaxGradientMonitor",
    draw=draw,
)
