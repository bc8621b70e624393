"""One table and one figure from runs of PPO, DPO and what lies between, all watched on the same frozen responses.

`python -m bench.rlhf_results` shows what `python -m bench.rlhf_runs` has made, and `bench.rlhf_fresh` read; other runs with
`--arm "DPO=runs/a/version_0,runs/b/version_0" --arm "PPO=runs/c/version_0"`: an arm is a name and the run folders of its seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bench.rlhf_fresh import FILE as FRESH
from bench.rlhf_runs import ARMS, SEEDS, Run
from run_folder.rows import Track, tracks_of

BANK = "likelihood/bank"
READINGS: Mapping[str, str] = {
    "chosen": f"{BANK}/chosen/change_per_token",
    "rejected": f"{BANK}/rejected/change_per_token",
    "leftover": f"{BANK}/leftover/change_per_token",
    "off-pair mass": "dispersion/bank/off_pair_mass",
    "off-data mass": "dispersion/bank/off_data_mass",
}
"""Column of the table -> metric whose last value it shows; of mass, less the first."""

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#555555",
    "#e69f00",
    "#56b4e9",
    "#882255",
    "#332288",
    "#999933",
    "#000000",
    "#aa4499",
)

Floats = NDArray[np.float64]
Tracks = dict[str, Track]


@dataclass(frozen=True)
class Panel:
    """What one panel of the figure shows."""

    title: str
    metrics: tuple[str, ...]
    """The names that the reading may have: DPO's, PPO's."""
    is_change: bool = False
    """Whether the value at step 0 is taken off."""
    is_log: bool = False


PANELS = (
    Panel("frozen chosen, change (nats per token)", (READINGS["chosen"],)),
    Panel("frozen rejected, change (nats per token)", (READINGS["rejected"],)),
    Panel("frozen left-over samples, change (nats per token)", (READINGS["leftover"],)),
    Panel("other prompts' chosen, change (nats per token)", (f"{BANK}/other_chosen/change_per_token",)),
    Panel("mass off the pair where it parts, change", (READINGS["off-pair mass"],), is_change=True),
    Panel("mass off all known responses, change", (READINGS["off-data mass"],), is_change=True),
    # A token's loss and a pair's have gradients of other magnitudes: what compares is how each changes, and liked with disliked.
    Panel("gradient at the logits, liked (L2 a token)", ("softmax_grad/chosen/l2", "softmax_grad/sample_above/l2"), is_log=True),
    Panel("the same, disliked", ("softmax_grad/rejected/l2", "softmax_grad/sample_below/l2"), is_log=True),
    Panel("greedy accuracy, held-out", ("task/accuracy",)),
)


@dataclass(frozen=True)
class Arm:
    """One way to train, and its runs."""

    name: str
    runs: tuple[Tracks, ...]

    def last(self, metric: str) -> list[float]:
        """The last value of a metric in every run that has it."""
        return [run[metric][-1][1] for run in self.runs if run.get(metric)]

    def change(self, metric: str) -> list[float]:
        """The last value less the first."""
        return [run[metric][-1][1] - run[metric][0][1] for run in self.runs if run.get(metric)]


def read(folder: Path) -> Tracks:
    """The curves of a run; beside them, where `bench.rlhf_fresh` has been, its accuracy on other problems."""
    fresh = folder / FRESH
    found: Tracks = {FRESH: [(0, json.loads(fresh.read_text(encoding="utf-8"))["accuracy"])]} if fresh.exists() else {}
    tracks = tracks_of(folder)
    return tracks | found if tracks else tracks


def parse_arm(text: str) -> Arm:
    """`name=folder,folder` as an arm.

    Raises:
        ValueError: if a folder holds no rows.
    """
    name, _, folders = text.partition("=")
    runs = {folder: read(Path(folder)) for folder in folders.split(",")}
    empty = [folder for folder, tracks in runs.items() if not tracks]
    if not name or empty:
        raise ValueError(f"expected <name>=<run folder>,... with rows in each folder, got {text!r}; no rows in {empty}.")
    return Arm(name, tuple(runs.values()))


def made() -> list[Arm]:
    """The arms of `bench.rlhf_runs` with the seeds that are complete."""
    arms = []
    for name, arm in ARMS.items():
        runs = [run for run in (Run(name, seed) for seed in SEEDS) if run.is_complete]
        if runs:
            arms.append(Arm(arm.title, tuple(read(run.folder) for run in runs)))
    return arms


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, of several, the standard deviation."""
    if not values:
        return ""
    middle = f"{mean(values):+.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ± {stdev(values):.{digits}f}"


def table(arms: Sequence[Arm]) -> str:
    """Markdown, an arm a line."""
    columns = ["accuracy, start", "end", "gain (points)", "end, fresh problems", *READINGS]
    lines = ["| | seeds | steps | " + " | ".join(columns) + " |", "|---" * (len(columns) + 3) + "|"]
    for arm in arms:
        accuracy = [run["task/accuracy"] for run in arm.runs if run.get("task/accuracy")]
        gains = [100 * (track[-1][1] - track[0][1]) for track in accuracy]
        steps = {track[-1][0] for run in arm.runs for track in [run[READINGS["chosen"]]]}
        cells = [
            str(len(arm.runs)),
            ", ".join(map(str, sorted(steps))),
            spread([track[0][1] for track in accuracy]).replace("+", ""),
            spread([track[-1][1] for track in accuracy]).replace("+", ""),
            spread(gains, 1),
            spread(arm.last(FRESH)).replace("+", ""),
            *(spread(arm.last(READINGS[name])) for name in ("chosen", "rejected", "leftover")),
            *(spread(arm.change(READINGS[name])) for name in ("off-pair mass", "off-data mass")),
        ]
        lines.append(f"| {arm.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def is_collapsed(run: Tracks) -> bool:
    """Whether next to nothing is solved at the end."""
    return bool(run.get("task/accuracy")) and run["task/accuracy"][-1][1] < 0.1


def curves(arm: Arm, panel: Panel) -> tuple[Floats, Floats] | None:
    """`([steps], [runs, steps])` of a panel, where all runs have a reading; None if no run has any."""
    tracks = [run[name] for run in arm.runs for name in panel.metrics if run.get(name)]
    if not tracks:
        return None
    steps = sorted(set.intersection(*({step for step, _ in track} for track in tracks)))
    values = np.array([[dict(track)[step] for step in steps] for track in tracks])
    return np.array(steps, dtype=float), values - values[:, :1] if panel.is_change else values


def draw(axes: Axes, arms: Sequence[Arm], panel: Panel) -> None:
    """One panel: an arm's mean over seeds in a band from the lowest to the highest. What has collapsed does not set the scale."""
    shown: list[Floats] = []
    for arm, colour in zip(arms, cycle(COLOURS), strict=False):
        found = curves(arm, panel)
        if found is None:
            continue
        steps, values = found
        axes.plot(steps, values.mean(0), color=colour, linewidth=1.3, label=arm.name)
        axes.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        shown += [] if any(map(is_collapsed, arm.runs)) else [values.ravel()]
    if panel.is_log:
        axes.set_yscale("log")
    elif shown:
        low, high = (reach(np.concatenate(shown)) for reach in (np.min, np.max))
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel("optimizer steps", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def figure(arms: Sequence[Arm], path: Path) -> None:
    """All panels over optimizer steps."""
    columns = 3
    rows = math.ceil(len(PANELS) / columns)
    canvas, grid = plt.subplots(rows, columns, figsize=(12, 3.0 * rows), layout="constrained")
    for axes, panel in zip(grid.flat, PANELS, strict=True):
        draw(axes, arms, panel)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=min(len(arms), 4), fontsize=9, frameon=False)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def main() -> None:
    """Write `table.md` and `curves.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", action="append", type=parse_arm, help="<name>=<run folder>,<run folder>; what is there by default")
    parser.add_argument("--out", type=Path, default=Path("docs/results/rlhf"), help="folder of the results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arms = arguments.arm or made()
    (arguments.out / "table.md").write_text(table(arms), encoding="utf-8")
    figure(arms, arguments.out / "curves.png")


if __name__ == "__main__":
    main()
