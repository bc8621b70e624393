"""Figure of the toy's exact ledger: the probability of every class of responses."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.groups import Group
from reports.plot import Plot
from reports.style import BLUE, GREEN, ORANGE, SKY, VERMILION, new_figure, styled

CLASSES = {
    "toy/own_chosen": ("own chosen", BLUE),
    "toy/other_chosen": ("other prompts' chosen", SKY),
    "toy/own_rejected": ("own rejected", VERMILION),
    "toy/other_rejected": ("other prompts' rejected", ORANGE),
    "toy/unseen": ("in no pair (unseen)", GREEN),
}


def draw(groups: Sequence[Group]) -> Figure | None:
    """Stacked masses, mean over seeds; a panel a group."""
    shown = [group for group in groups if all(group.curve(name) for name in CLASSES)]
    if not shown:
        return None
    figure, axes = new_figure(len(shown), columns=4, height=3.1)
    with styled():
        for own, group in zip(axes, shown, strict=True):
            curves = [curve for name in CLASSES if (curve := group.curve(name))]
            labels, colours = zip(*CLASSES.values(), strict=True)
            own.stackplot(curves[0].steps, [curve.mean for curve in curves], labels=labels, colors=colours, alpha=0.9)
            steps = curves[0].steps
            own.set(title=group.label, xlabel="step", ylabel="probability mass", xlim=(steps[0], max(steps[-1], 1)), ylim=(0, 1))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


PLOT = Plot(
    name="ledger",
    title="The toy's ledger: where every bit of probability is",
    meaning="The five areas sum to 1, so others gain what one loses. Look which area grows when the blue one shrinks.",
    needs=("toy/own_chosen",),
    callback="callbacks.diagnostics.toy_ledger.ToyLedger",
    draw=draw,
    is_optional=True,
)
