"""docs/results/rlhf/twins from the rows of its runs: `python -m bench.twins_results` after `python -m bench.rm_dpo_twins`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.rm_dpo_twins import EVERY, KINDS, RATES, SETS, Twin, twins
from bench.toy_tables import spread, table
from run_folder.rows import read_rows

OUT = Path(__file__).parent.parent / "docs" / "results" / "rlhf"
NUMBERS = "## Numbers\n"
"""Heading below which the page is written anew."""
UNSEEN = tuple(name for name in SETS if name != "train")
NAMES = {"dpo": "DPO", "rm": "reward model"}
LABEL = ("", "learning rate", "seeds")
"""Headings of what says which runs a line is about."""
LINES = {("dpo", "accuracy"): ("#0072b2", "-"), ("rm", "accuracy"): ("#d55e00", "-"), ("dpo", "ranking"): ("#56b4e9", "--")}
"""(kind, reading) -> how it is drawn."""
LABELS = {("dpo", "accuracy"): "DPO, implicit reward", ("rm", "accuracy"): "reward model", ("dpo", "ranking"): "DPO, log pi itself"}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """The runs of one kind with one learning rate."""

    kind: str
    rate: str
    rows: tuple[tuple[dict[str, float], ...], ...]
    """Those of each seed."""

    @property
    def label(self) -> tuple[str, str, str]:
        """The first cells of its lines, below `LABEL`."""
        return NAMES[self.kind], self.rate, str(len(self.rows))

    @property
    def steps(self) -> Floats:
        """At which there are readings."""
        return np.array([row["step"] for row in self.rows[0]])

    def curve(self, name: str, reading: str = "accuracy") -> Floats:
        """`[readings, seeds]` of a set, in percent."""
        return 100 * np.array([[row[f"pair_accuracy/{name}/{reading}"] for row in rows] for rows in self.rows]).T


def cells(runs: Sequence[Twin]) -> list[Cell]:
    """What is complete, by learning rate and kind; a cell without a run is left out."""
    found = []
    for rate in RATES:
        for kind in KINDS:
            complete = [run for run in runs if (run.kind, run.rate) == (kind, rate) and run.is_complete]
            if complete:
                found.append(Cell(kind, rate, tuple(tuple(read_rows(run.folder, "pair_accuracy")) for run in complete)))
    return found


def detour(curve: Floats) -> Floats:
    """`[seeds]` how far a curve `[readings, seeds]` goes back and forth: all its moves less the net one; 0 if it never turns."""
    moves = np.diff(curve, axis=0)
    return np.asarray(np.abs(moves).sum(0) - np.abs(moves.sum(0)))


def accuracies(grid: Sequence[Cell], reading: str = "accuracy") -> str:
    """Percent of pairs in order at the last step, a column a set."""
    rows = [
        [*cell.label, *(spread(cell.curve(name, reading)[-1], 1) for name in SETS)]
        for cell in grid
        if (cell.kind, reading) in LINES
    ]
    return table([*LABEL, *(name.replace("_", " ") for name in SETS)], rows)


def dynamics(grid: Sequence[Cell]) -> str:
    """Overfitting, and how steadily the curves go."""
    rows = []
    for cell in grid:
        held_out, seen = cell.curve("held_out"), cell.curve("train")
        peak = held_out.max(0)
        others = np.mean([detour(cell.curve(name)) for name in UNSEEN if name != "held_out"], axis=0)
        rows.append(
            [
                *cell.label,
                spread(seen[-1] - held_out[-1], 1),
                spread(peak, 1),
                spread(cell.steps[held_out.argmax(0)], 0),
                spread(peak - held_out[-1], 1),
                spread(detour(seen), 1),
                spread(detour(held_out), 1),
                spread(others, 1),
            ]
        )
    overfitting = ["train less held out, end", "held out, highest", "at step", "lost since"]
    detours = [f"detour, {name}" for name in ("train", "held out", "other sets")]
    return table([*LABEL, *overfitting, *detours], rows)


def draw(axes: Axes, cell: Cell, name: str) -> None:
    """One kind's curves of a set: every seed thin, their mean thick."""
    for (kind, reading), (colour, style) in LINES.items():
        if kind == cell.kind:
            curve = cell.curve(name, reading)
            axes.plot(cell.steps, curve, style, color=colour, linewidth=0.6, alpha=0.5)
            axes.plot(cell.steps, curve.mean(1), style, color=colour, linewidth=1.8, label=LABELS[kind, reading])


def figure(grid: Sequence[Cell]) -> Figure:
    """A column a set, a row a learning rate."""
    canvas, panels = plt.subplots(len(RATES), len(SETS), figsize=(16, 7.5), sharex=True, sharey=True, layout="constrained")
    for line, rate in zip(panels, RATES, strict=True):
        for axes, name in zip(line, SETS, strict=True):
            axes.axhline(50, color="#999999", linewidth=0.7)
            for cell in grid:
                if cell.rate == rate:
                    draw(axes, cell, name)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        line[0].set_ylabel(f"learning rate {rate}\npairs in order (%)", fontsize=9)
    for axes, name in zip(panels[0], SETS, strict=True):
        axes.set_title(name.replace("_", " "), fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("optimizer steps", fontsize=8)
    canvas.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LINES), frameon=False)
    return canvas


def numbers(grid: Sequence[Cell]) -> str:
    """The tables, in Markdown."""
    parts = [
        "Mean ± standard deviation over seeds; points are percentage points. Written by `python -m bench.twins_results`.",
        "Pairs in order at the last step (%), by reward:",
        accuracies(grid),
        "The same by log pi itself, which is what the policy would rather write:",
        accuracies(grid, "ranking"),
        f"Overfitting and steadiness (points). A detour is the way a curve goes back and forth between readings, every {EVERY} "
        "steps: the sum of its moves less the net move, 0 if it never turns.",
        dynamics(grid),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the figure, and the numbers below the text of the page."""
    # It takes no options; but `--help` must not write files.
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    grid = cells(twins())
    page = OUT / "twins.md"
    text = page.read_text(encoding="utf-8").partition(NUMBERS)[0] if page.is_file() else ""
    page.write_text(f"{text}{NUMBERS}\n{numbers(grid)}", encoding="utf-8")
    canvas = figure(grid)
    canvas.savefig(OUT / "twins.png", dpi=110)
    plt.close(canvas)


if __name__ == "__main__":
    main()
