"""The figures of docs/results/verdict: reliability, ROC, and what became of each run at its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from studies.verdict.evaluation import BOOTSTRAPS, labels_of
from studies.verdict.families import Array
from studies.verdict.fit import Scored

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")
BINS = 8


def reliability(probabilities: Mapping[str, Array], labels: Mapping[str, Array]) -> Figure:
    """Share of held-out runs that ended wrong against what was said, in bins of as many runs, by family and for all."""
    figure, axes = plt.subplots(figsize=(5.2, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for (name, said), colour in zip(probabilities.items(), COLOURS, strict=False):
        bins = np.array_split(np.argsort(said), min(BINS, max(len(said) // 8, 1)))
        x = [said[members].mean() for members in bins]
        y = [labels[name][members].mean() for members in bins]
        error = [1.96 * np.sqrt(max(share * (1 - share), 0.02) / len(members)) for share, members in zip(y, bins, strict=True)]
        style = {"linewidth": 2.2, "capsize": 3} if name == "all" else {"linewidth": 1, "alpha": 0.75}
        axes.errorbar(x, y, yerr=error if name == "all" else None, color=colour, marker="o", markersize=4, label=name, **style)  # type: ignore[arg-type]
    axes.set(xlabel="probability that was said", ylabel="share that ended wrong", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return figure


def roc(curves: Mapping[str, Sequence[Scored]], main: str) -> Figure:
    """Recall against false-alarm rate; of `main` with its 95% bootstrap band over cells."""
    figure, axes = plt.subplots(figsize=(5.6, 5), layout="constrained")
    grid = np.linspace(0, 1, 101)
    for (name, scored), colour in zip(curves.items(), COLOURS, strict=False):
        labels, scores = labels_of(scored), np.array([one.highest for one in scored])
        false, right, _ = roc_curve(labels, scores)
        axes.plot(false, right, color=colour, label=name, linewidth=2.2 if name == main else 1.1)
        if name == main:
            low, high = _band(labels, scores, grid)
            axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axvline(0.05, color="#999999", linestyle=":", linewidth=1)
    axes.set(xlabel="false-alarm rate (fine runs)", ylabel="recall (wrong runs)", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _band(labels: Array, scores: Array, grid: Array) -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    curves: list[Array] = []
    while len(curves) < BOOTSTRAPS // 2:
        drawn = generator.integers(len(labels), size=len(labels))
        if labels[drawn].any() and not labels[drawn].all():
            false, right, _ = roc_curve(labels[drawn], scores[drawn])
            curves.append(np.interp(grid, false, right))
    low, high = np.quantile(curves, (0.025, 0.975), axis=0)
    return low, high


def ends(scored: Sequence[Scored], threshold: float) -> Figure:
    """Every held-out run: its highest score, and how far its answers changed, by family."""
    families = list(dict.fromkeys(one.run.family for one in scored))
    figure, panels = plt.subplots(1, len(families), figsize=(3.1 * len(families), 3.1), layout="constrained", squeeze=False)
    for axes, family in zip(panels[0], families, strict=True):
        members = [one for one in scored if one.run.family == family]
        for is_wrong, colour, marker, label in ((False, COLOURS[0], "o", "fine"), (True, COLOURS[1], "x", "wrong")):
            chosen = [one for one in members if one.run.outcome.is_wrong == is_wrong]
            x, y = [one.highest for one in chosen], [one.run.outcome.change for one in chosen]
            axes.scatter(x, y, s=16, c=colour, marker=marker, label=label)
        axes.axvline(threshold, color="#999999", linestyle=":", linewidth=1)
        axes.set(title=family, xlabel="highest held-out score")
    panels[0][0].set_ylabel("change of what is judged")
    panels[0][0].legend(frameon=False)
    return figure
