"""Figure of the paper's Property 3: where the probability mass goes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.figures.trajectories import probe_kinds
from reports.groups import Group
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot
from reports.style import SIDES

BANK = "dispersion/bank/"


def draw(groups: Sequence[Group]) -> Figure | None:
    """Dispersion index by kind of probe, mass off the pair, entropy, top-1 mass."""
    kinds = probe_kinds(groups)
    index = tuple(line(kind.replace("_", " "), f"{BANK}{kind}/index_per_token") for kind in ("probes", *kinds))
    panels = (
        Panel("Dispersion index: probes against the pair", "nats per token", index, level=0),
        Panel("Mass off the pair where it parts", "probability", (line("probe bank", f"{BANK}off_pair_mass"),)),
        Panel("Entropy along the pair", "nats", tuple(line(side, f"{BANK}{side}/entropy") for side in SIDES)),
        Panel("Largest probability", "probability", tuple(line(s, f"{BANK}{s}/top1_mass") for s in SIDES)),
    )
    return draw_panels(groups, panels, columns=2)


PLOT = Plot(
    name="dispersion",
    title="Dispersion: where the mass went",
    meaning=(
        "An index above 0 means that responses outside the pairs gain on those inside. If the mass off the pair rises while chosen "
        "falls, no known response gained it. If entropy falls while the largest probability rises, the favourite token gained it."
    ),
    needs=(BANK,),
    callback="callbacks.diagnostics.dispersion.DispersionMonitor",
    draw=draw,
)
