"""docs/results/toy from the rows of its runs: `python -m bench.toy_figures` after `python -m bench.toy_runs`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from bench import toy_tables
from bench.toy_curves import PAPER, PAPER_GRADIENTS, PAPER_S1_CHOSEN, UNDERFLOW, Curves
from bench.toy_runs import ROOT, VARIANTS
from callbacks.diagnostics.toy_ledger import CLASS_OF_KIND
from datamodules.toy.scenarios import SCENARIOS

OUT = ROOT / "docs" / "results" / "toy"

# After Okabe and Ito: told apart with any colour vision. Curves differ in their dashes and the paper's marks in shape as well.
CHOSEN, WORST, REJECTED, UNSEEN, PAPERS_UNSEEN = "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#555555"
CLASS_COLOURS = (CHOSEN, REJECTED, "#a6cde6", "#f3c6a5", UNSEEN)

LineStyle = str | tuple[int, tuple[int, ...]]

VARIANT_LINES: tuple[tuple[str, LineStyle], ...] = (
    (CHOSEN, "-"),
    (REJECTED, "--"),
    (UNSEEN, "-."),
    ("#cc79a7", ":"),
    (PAPERS_UNSEEN, (0, (6, 1, 1, 1, 1, 1))),
)

Runs = dict[str, Curves]

VARIANT_PANELS: tuple[tuple[str, Sequence[tuple[str, str]]], ...] = (
    ("beta", (("s1", "0.02"), ("s1_beta0.1", "0.1"))),
    ("activation", (("s1", "ReLU"), ("s1_tanh", "tanh"))),
    ("width", (("s1", "512"), ("s1_width256", "256"), ("s1_width128", "128"), ("s1_width64", "64"), ("s1_width16", "16"))),
    ("Flex-DPO, beta- / beta+", (("s1", "1 (DPO)"), ("s1_flex0.8", "0.8"), ("s1_flex0.5", "0.5"), ("s1_flex0.1", "0.1"))),
    ("SFT term, gamma", (("s1", "0 (DPO)"), ("s1_sft0.01", "0.01"), ("s1_sft0.1", "0.1"))),
    ("data", (("s1", "full batch, fixed"), ("s1_random", "random rejected"), ("s1_minibatch", "mini-batches of 2"))),
)


def plot_mean(axes: Axes, curves: Curves, name: str, *, label: str, colour: str, style: LineStyle = "-") -> None:
    """Mean over seeds with a band of one standard deviation."""
    values = curves.values[name]
    mean, deviation = values.mean(1), values.std(1, ddof=1)
    axes.plot(curves.steps, mean, linestyle=style, color=colour, label=label, linewidth=1.8)
    axes.fill_between(curves.steps, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)


def figure_3(runs: Runs) -> Figure:
    """The paper's Fig. 3 for the four scenarios, with what was read off the paper as points; below it the two sides in logs."""
    figure, (panels, logarithms) = plt.subplots(2, 4, figsize=(17, 8), sharey="row", layout="constrained")
    for scenario, axes in zip(PAPER, logarithms, strict=True):
        _plot_logarithms(axes, runs[f"s{scenario}"])
    logarithms[0].set_ylabel("log10 of the probability, mean ± SD over seeds")
    for scenario, axes in zip(PAPER, panels, strict=True):
        curves = runs[f"s{scenario}"]
        plot_mean(axes, curves, "own_chosen", label="chosen", colour=CHOSEN)
        plot_mean(axes, curves, "own_chosen_min", label="chosen, worst prompt", colour=WORST, style="-.")
        plot_mean(axes, curves, "own_rejected", label="rejected", colour=REJECTED)
        plot_mean(axes, curves, "papers_unseen", label='the paper\'s "unseen" (a mean)', colour=PAPERS_UNSEEN, style=":")
        plot_mean(axes, curves, "unseen", label="mass on truly unseen", colour=UNSEEN, style="--")
        _mark_paper(axes, scenario)
        axes.set(title=f"Scenario {scenario}: {SCENARIOS[scenario].title}", xlabel="step (full batch)", ylim=(-0.02, 0.9))
        axes.title.set_fontsize(10)
    panels[0].set_ylabel("probability, mean ± SD over seeds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _plot_logarithms(axes: Axes, curves: Curves) -> None:
    logs = Curves(curves.steps, {name: np.log10(curves.values[name]) for name in ("own_chosen", "own_rejected")})
    plot_mean(axes, logs, "own_chosen", label="chosen", colour=CHOSEN)
    plot_mean(axes, logs, "own_rejected", label="rejected", colour=REJECTED)
    axes.axhline(np.log10(UNDERFLOW), color=PAPERS_UNSEEN, linewidth=0.9, linestyle=":")
    axes.annotate("0 in float32", (30, np.log10(UNDERFLOW)), va="bottom", fontsize=9, color=PAPERS_UNSEEN)
    axes.set(xlabel="step (full batch)")


def _mark_paper(axes: Axes, scenario: int) -> None:
    paper, start, last = PAPER[scenario], SCENARIOS[scenario].row[0], 2000
    peaks = {0: start, paper.chosen_peak_at: paper.chosen_peak, last: paper.chosen_end}
    _points(axes, PAPER_S1_CHOSEN if scenario == 1 else peaks, CHOSEN, "o", label="paper: chosen", joined=True)
    _points(axes, {paper.min_peak_at: paper.min_peak, last: paper.min_end}, WORST, "^", label="paper: worst prompt")
    _points(axes, {paper.rejected_gone_by: 0.0}, REJECTED, "D", label="paper: rejected gone")
    _points(axes, {0: paper.unseen[0], last: paper.unseen[2]}, PAPERS_UNSEEN, "s", label='paper: "unseen"')


def _points(axes: Axes, readings: Mapping[int, float], colour: str, marker: str, label: str, *, joined: bool = False) -> None:
    """What was read off the paper's plots."""
    steps, values = [*readings], [*readings.values()]
    if joined:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.5, zorder=4)
    shape = MarkerStyle(marker)
    axes.scatter(
        steps,
        values,
        s=50,
        marker=shape,
        facecolors="white",
        edgecolors=colour,
        linewidths=1.4,
        label=label,
        zorder=5,
        clip_on=False,
    )


def figure_ledger(runs: Runs) -> Figure:
    """Where the probability is: five classes, mean over seeds, summing to 1."""
    figure, panels = plt.subplots(1, 4, figsize=(17, 4.2), sharey=True, layout="constrained")
    names = list(CLASS_OF_KIND.values())
    for scenario, axes in zip(PAPER, panels, strict=True):
        curves = runs[f"s{scenario}"]
        means = [curves.values[name].mean(1) for name in names]
        axes.stackplot(curves.steps, means, labels=[name.replace("_", " ") for name in names], colors=CLASS_COLOURS)
        axes.set(title=f"Scenario {scenario}: {SCENARIOS[scenario].title}", xlabel="step", xlim=(0, 2000), ylim=(0, 1))
        axes.title.set_fontsize(10)
    panels[0].set_ylabel("probability mass, mean over seeds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def figure_gradients(runs: Runs) -> Figure:
    """The same gradients in pi, log pi and logits."""
    figure, panels = plt.subplots(2, 3, figsize=(14, 7.2), layout="constrained")
    titles = {"log10_pi": "|dl/dpi|, log10", "log_pi": "|dl/dlog pi|", "logit": "L2 of dl/dlogits"}
    for row, scenario in zip(panels, (1, 4), strict=True):
        for axes, (coordinate, title) in zip(row, titles.items(), strict=True):
            for side, colour, style in (("chosen", CHOSEN, "-"), ("rejected", REJECTED, "--")):
                _plot_gradient(axes, runs[f"s{scenario}"], coordinate, side, colour, style)
            axes.set(title=f"Scenario {scenario}: {title}", xlabel="step")
        for side, colour, marker in (("chosen", CHOSEN, "o"), ("rejected", REJECTED, "D")):
            _points(row[0], PAPER_GRADIENTS[side], colour, marker, label=f"{side}, paper's Fig. 2")
        row[0].legend(frameon=False)
        row[1].legend(frameon=False)
    return figure


def _plot_gradient(axes: Axes, curves: Curves, coordinate: str, side: str, colour: str, style: str) -> None:
    values = curves.values[f"gradient/{coordinate}/{side}"]
    magnitudes = values if coordinate == "log10_pi" else np.abs(values)
    shown = Curves(curves.steps[1:], {"magnitude": magnitudes[1:]})
    plot_mean(axes, shown, "magnitude", label=side, colour=colour, style=style)


def figure_variants(runs: Runs) -> Figure:
    """The chosen probability of scenario 1 under other settings: a panel for each setting that has been run."""
    shown = [(title, [run for run in variants if run[0] in runs]) for title, variants in VARIANT_PANELS]
    shown = [(title, variants) for title, variants in shown if len(variants) > 1]
    num_rows = math.ceil(len(shown) / 3)
    figure, grid = plt.subplots(num_rows, 3, figsize=(14, 3.8 * num_rows), layout="constrained", squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (title, variants) in zip(grid.flat, shown, strict=False):
        for (name, label), (colour, style) in zip(variants, VARIANT_LINES, strict=False):
            curves = runs[name]
            # Mini-batches take more steps for as many passes: show passes.
            passes = Curves(curves.steps * 2000 // curves.steps[-1], curves.values)
            plot_mean(axes, passes, "own_chosen", label=label, colour=colour, style=style)
        axes.set(title=title, xlabel="passes over the prompts", ylim=(0, 1.02), ylabel="chosen, mean ± SD over seeds")
        axes.legend(frameon=False)
    return figure


def main() -> None:
    """Write the figures and the tables; the four scenarios are needed, variants are shown where they were run."""
    folders = {name: ROOT / "runs" / "toy" / name for name in VARIANTS}
    absent = [name for name in VARIANTS if "_" in name and not any(folders[name].glob("version_*/policy"))]
    if absent:
        print(f"Left out, because they have not been run: {', '.join(absent)}")
    runs = {name: Curves.load(folders[name]) for name in VARIANTS if name not in absent}
    OUT.mkdir(parents=True, exist_ok=True)
    figures = {"scenarios": figure_3, "ledger": figure_ledger, "gradients": figure_gradients, "variants": figure_variants}
    for name, draw in figures.items():
        draw(runs).savefig(OUT / f"{name}.png", dpi=100)
    sections = {
        "Landmarks of the four scenarios": toy_tables.milestones,
        "Scenario 1 along the run": toy_tables.scenario_one_by_epoch,
        "Probability mass by class": toy_tables.ledgers,
        "Gradients in three coordinates, chosen / rejected": toy_tables.gradients,
        "All runs": toy_tables.variants,
    }
    text = "\n\n".join(f"## {title}\n\n{make(runs)}" for title, make in sections.items())
    preface = "# The toy in numbers\n\nMean ± standard deviation over seeds. Written by `python -m bench.toy_figures`.\n\n"
    (OUT / "tables.md").write_text(f"{preface}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
