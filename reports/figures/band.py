"""Figure of the disentanglement band: the geometry of the two sides' gradients at the output layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reports.groups import Group
from reports.missing import has_no_pair_incentives
from reports.panels import Line, Panel, Source, draw_panels, line
from reports.plot import Plot

PANELS = (
    Panel("Pairs outside the disentanglement band", "share", (line("outside", "head/band_violated"),)),
    Panel(
        "Incentives against the band's centre",
        "d_l / d_w",
        (line("centre of the band", "head/centre"), Line("what the loss gives", (Source("head/incentive_ratio", np.reciprocal),))),
        level=1,
    ),
    Panel("Cosine of the two gradients", "cosine", (line("cosine", "head/cosine"),), level=0),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Share outside the band, its centre, the cosine."""
    return draw_panels(groups, PANELS)


PLOT = Plot(
    name="band",
    title="Degradation: can the two sides be moved apart",
    meaning=(
        "Outside the band a step on the pair lowers chosen or raises rejected, whatever the loss is. beta_rejected = beta_chosen "
        "x centre puts the pairs in its middle. The band is narrow where the cosine is near 1."
    ),
    needs=("head/",),
    callback="callbacks.diagnostics.disentanglement.DisentanglementMonitor",
    draw=draw,
    has_none=has_no_pair_incentives,
    reads="losses of the two likelihoods of a pair",
)
