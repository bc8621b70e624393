"""The paper's Figure 3 for these runs: a panel a run, the likelihood of every class of responses in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reports.figures.trajectories import probe_kinds
from reports.groups import Group
from reports.panels import Line, Panel, Source, plot_curve
from reports.plot import Plot
from reports.style import DASHES, SIDES, new_figure, styled

TOY_LINES = (
    Line("chosen", (Source("toy/own_chosen"),)),
    Line("rejected", (Source("toy/own_rejected"),)),
    Line("truly unseen (mass)", (Source("toy/unseen"),)),
    Line('the paper\'s "unseen" (a mean)', (Source("toy/papers_unseen"),)),
    Line("chosen, worst prompt", (Source("toy/own_chosen_min"),)),
)


def lines_of(group: Group) -> list[Line]:
    """What a panel of this group shows: masses on the toy, a token's geometric mean probability on a language model."""
    if any(line.curve(group) for line in TOY_LINES):
        return list(TOY_LINES)
    kinds = (*SIDES, *probe_kinds([group]))
    lines = [Line(kind.replace("_", " "), (Source(f"likelihood/bank/{kind}/logp_per_token", np.exp),)) for kind in kinds]
    return [line for line in lines if line.curve(group)]


def draw(groups: Sequence[Group]) -> Figure | None:
    """A panel for each group that has any of the curves; the same scale in all."""
    shown = [(group, lines) for group in groups if (lines := lines_of(group))]
    if not shown:
        return None
    figure, axes = new_figure(len(shown), columns=4, height=3.1)
    with styled():
        for own, (group, lines) in zip(axes, shown, strict=True):
            panel = Panel(group.label, "probability", tuple(lines))
            for number, line in enumerate(lines):
                curve = line.curve(group)
                if curve is not None:
                    plot_curve(own, curve, colour=panel.colour(number), dashes=DASHES[number % 4], label=line.label)
            own.set(title=group.label, xlabel="step", ylabel="probability")
        highest = max(own.get_ylim()[1] for own in axes)
        for own in axes:
            own.set_ylim(0, highest)
        handles = {text: handle for own in axes for handle, text in zip(*own.get_legend_handles_labels(), strict=True)}
        figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=min(2 * len(shown), 4, len(handles)))
    return figure


PLOT = Plot(
    name="figure_3",
    title="The paper's Figure 3: what each kind of response holds",
    meaning=(
        "One panel for each setting. In the paper chosen first rises, then falls when rejected is already gone, and responses in "
        "no pair gain. On a language model: the geometric mean probability of a token, so that lengths do not matter."
    ),
    needs=("toy/", "likelihood/bank/"),
    callback="callbacks.diagnostics.likelihood.LikelihoodMonitor",
    draw=draw,
)
