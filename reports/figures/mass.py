"""Figure of the tokens that gained probability: the paper's Property 3, token by token."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot
from reports.style import SIDES

PANELS = (
    Panel("Mass moved since step 0", "probability", tuple(line(f"along {side}", f"mass/{side}/moved") for side in SIDES)),
    Panel(
        "Of it, to tokens of no known response", "share", tuple(line(f"along {side}", f"mass/{side}/to_off_data") for side in SIDES)
    ),
    Panel("Of it, to what was likeliest", "share", tuple(line(f"along {side}", f"mass/{side}/to_argmax") for side in SIDES)),
)


def draw(groups: Sequence[Group]) -> Figure | None:
    """Mass moved, its share off the data, its share to the argmax."""
    return draw_panels(groups, PANELS)


PLOT = Plot(
    name="mass",
    title="Dispersion: who got the mass that moved",
    meaning=(
        "Left: how much probability moved along the pairs. Middle: the part that went to tokens of no known response (dispersion). "
        "Right: the part that went to the token that was the favourite before (squeezing)."
    ),
    needs=("mass/",),
    callback="callbacks.diagnostics.mass_gains.MassMonitor",
    draw=draw,
)
