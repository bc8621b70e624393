"""The figures of docs/alarms.md from the labelled runs: `python -m bench.alarm_figures` after `python -m bench.alarm_runs`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.alarm_runs import EMBEDDED, TOY, Run
from bench.alarm_table import OUT, fired, readings_of
from callbacks.alarms.property_rules import PROPERTY_RULES
from run_folder.rows import Track, tracks_of

# Okabe and Ito's palette: told apart by colour-blind readers too.
BROKEN, REMEDIED = "#d55e00", "#0072b2"
ALARM_COLOURS = {"drastic_drop": "#000000", "suppression": "#cc79a7", "dispersion": "#009e73"}

Panel = tuple[str, Callable[[dict[str, Track]], Track]]
"""The metric that is drawn, and its place in a run's rows."""


@dataclass(frozen=True)
class Example:
    """A run that goes wrong beside the same run with the remedy."""

    name: str
    broken: Run
    remedied: Run
    remedy: str
    panels: tuple[Panel, ...]


def _metric(name: str) -> Callable[[dict[str, Track]], Track]:
    return lambda tracks: tracks[name]


def _off_data(tracks: dict[str, Track]) -> Track:
    return [(step, 1 - known) for step, known in tracks["known_mass/known"]]


_SEEN: tuple[Panel, ...] = (
    ("accuracy on held-out problems", _metric("task/accuracy")),
    ("off-data mass: 1 - known responses", _off_data),
    ("chosen, nats per token since step 0", _metric("likelihood/bank/chosen/change_per_token")),
    ("other prompts' chosen, nats per token", _metric("likelihood/bank/other_chosen/change_per_token")),
)
_TOY_SEEN: tuple[Panel, ...] = (
    ("probability of chosen", _metric("toy/own_chosen")),
    ("mass outside the pair", _metric("dispersion/bank/off_pair_mass")),
    ("rejected, nats since step 0", _metric("likelihood/bank/rejected/change_per_token")),
    ("drop share", _metric("likelihood/bank/drop_share")),
)

EXAMPLES = (
    Example("suppression", Run(EMBEDDED, "dpo", 1, "3e-4", 0), Run(EMBEDDED, "dpo", 1, "1e-4", 0), "a third of the rate", _SEEN),
    Example("drastic_drop", Run(EMBEDDED, "dpo", 4, "3e-4", 0), Run(EMBEDDED, "sft_dpo", 4, "3e-4", 0), "likelihood term", _SEEN),
    Example("toy", Run(TOY, "dpo", 1, "1e-4", 0), Run(TOY, "flex_dpo", 1, "1e-4", 0), "beta_rejected halved", _TOY_SEEN),
)


def draw(example: Example) -> Figure:
    """Both runs in every panel, and the steps at which the broken one's alarms fired."""
    figure, panels = plt.subplots(1, len(example.panels), figsize=(4 * len(example.panels), 3.6), layout="constrained")
    runs = {"as it was": (example.broken, BROKEN, "-"), example.remedy: (example.remedied, REMEDIED, "--")}
    tracks = {label: tracks_of(run.folder) for label, (run, _, _) in runs.items()}
    alarms = fired(readings_of(example.broken), PROPERTY_RULES)
    for axes, (title, of) in zip(panels, example.panels, strict=True):
        for label, (_, colour, style) in runs.items():
            steps, values = zip(*of(tracks[label]), strict=True)
            axes.plot(steps, values, style, color=colour, label=label, linewidth=1.8)
        _mark(axes, alarms)
        axes.set(title=title, xlabel="step")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def _mark(axes: Axes, alarms: dict[str, int]) -> None:
    for name, step in alarms.items():
        axes.axvline(
            step, color=ALARM_COLOURS[name], linestyle=":", linewidth=1.5, label=f"alarm: {name.replace('_', ' ')}, step {step}"
        )


def main() -> None:
    """Draw them."""
    OUT.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        figure = draw(example)
        figure.savefig(OUT / f"example_{example.name}.png", dpi=80)
        plt.close(figure)


if __name__ == "__main__":
    main()
