"""Likelihood of chosen, rejected and probe completions along the run."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.panels import Panel, draw_panels, line
from reports.plot import Plot
from reports.style import SIDES

BANK = "likelihood/bank/"


def probe_kinds(groups: Sequence[Group]) -> list[str]:
    """Kinds of completions in the probe bank that are not of the pairs."""
    names = (name.removeprefix(BANK) for group in groups for name in group.metrics() if name.startswith(BANK))
    kinds = dict.fromkeys(name.removesuffix("/logp") for name in names if name.endswith("/logp"))
    return [kind for kind in kinds if kind not in SIDES]


def draw(groups: Sequence[Group]) -> Figure | None:
    """Levels of the pair, changes of the pair, changes of the probes."""
    probes = tuple(line(kind.replace("_", " "), f"{BANK}{kind}/change_per_token") for kind in probe_kinds(groups))
    panels = (
        Panel("Chosen and rejected", "nats per completion", tuple(line(side, f"{BANK}{side}/logp") for side in SIDES)),
        Panel(
            "Change since step 0, the pair",
            "nats per token",
            tuple(line(side, f"{BANK}{side}/change_per_token") for side in SIDES),
            level=0,
        ),
        Panel("Change since step 0, probes", "nats per token", probes, level=0),
    )
    return draw_panels(groups, panels)


PLOT = Plot(
    name="trajectories",
    title="How likely the completions are",
    meaning=(
        "The same pairs through the whole run: chosen should rise or hold while rejected falls. Probes are responses outside the "
        "pairs; if they fall too, the policy loses language instead of learning a preference."
    ),
    needs=(BANK,),
    callback="callbacks.diagnostics.likelihood.LikelihoodMonitor",
    draw=draw,
)
