"""One table and one figure from runs of PPO, DPO and what lies between, all watched on the same frozen responses.

`python -m bench.rlhf_results` shows what `python -m bench.rlhf_runs` has made; other runs with
`--arm "DPO=runs/a/version_0,runs/b/version_0" --arm "PPO=runs/c/version_0"`: an arm is a name and the run folders of its seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.rlhf_runs import ARMS, SEEDS, Run
from callbacks.rows import Track, tracks_of

BANK = "likelihood/bank"
READINGS: Mapping[str, str] = {
    "chosen": f"{BANK}/chosen/change_per_token",
    "rejected": f"{BANK}/rejected/change_per_token",
    "leftover": f"{BANK}/leftover/change_per_token",
    "off-pair mass": "dispersion/bank/off_pair_mass",
}
"""Column of the table -> metric whose last value it shows; of the mass, less the first."""

GRADIENTS = "gradient at the logits, L2 a token (dashed: disliked)"

PANELS: Sequence[tuple[str, Mapping[str, Sequence[str]]]] = (
    ("frozen chosen, change (nats per token)", {"": (READINGS["chosen"],)}),
    ("frozen rejected, change (nats per token)", {"": (READINGS["rejected"],)}),
    ("frozen leftovers, change (nats per token)", {"": (READINGS["leftover"],)}),
    ("mass off the pair where it parts", {"": (READINGS["off-pair mass"],)}),
    (
        GRADIENTS,
        {
            "liked": ("softmax_grad/chosen/l2", "softmax_grad/sample_above/l2"),
            "disliked": ("softmax_grad/rejected/l2", "softmax_grad/sample_below/l2"),
        },
    ),
    ("greedy accuracy, held-out", {"": ("task/accuracy",)}),
)
"""Title -> curves: what a curve is, and the metrics that may hold it (DPO's name, PPO's name)."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555", "#e69f00", "#56b4e9", "#882255", "#332288", "#999933", "#000000")
STYLES = {"": "-", "liked": "-", "disliked": "--"}

Tracks = dict[str, Track]


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


def parse_arm(text: str) -> Arm:
    """`name=folder,folder` as an arm.

    Raises:
        ValueError: if a folder holds no rows.
    """
    name, _, folders = text.partition("=")
    runs = {folder: tracks_of(Path(folder)) for folder in folders.split(",")}
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
            arms.append(Arm(arm.title, tuple(tracks_of(run.folder) for run in runs)))
    return arms


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, of several, the standard deviation."""
    if not values:
        return ""
    middle = f"{mean(values):+.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ± {stdev(values):.{digits}f}"


def table(arms: Sequence[Arm]) -> str:
    """Markdown, an arm a line."""
    columns = ["accuracy, start", "end", "gain (points)", *READINGS]
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
            *(spread(arm.last(READINGS[name])) for name in ("chosen", "rejected", "leftover")),
            spread(arm.change(READINGS["off-pair mass"])),
        ]
        lines.append(f"| {arm.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def is_collapsed(run: Tracks) -> bool:
    """Whether next to nothing is solved at the end."""
    return bool(run.get("task/accuracy")) and run["task/accuracy"][-1][1] < 0.1


def draw(axes: Axes, arms: Sequence[Arm], title: str, curves: Mapping[str, Sequence[str]]) -> None:
    """One panel: a colour an arm, a thin line a seed. A run that has collapsed does not set the scale, and may leave it."""
    shown: list[float] = []
    for arm, colour in zip(arms, cycle(COLOURS), strict=False):
        label: str | None = arm.name
        for kind, names in curves.items():
            for run in arm.runs:
                track = next((run[name] for name in names if run.get(name)), [])
                if track:
                    steps, values = zip(*track, strict=True)
                    axes.plot(steps, values, STYLES[kind], color=colour, linewidth=1.1, label=label)
                    label = None
                    shown += [] if is_collapsed(run) else values
    if title == GRADIENTS:
        # A token's loss and a pair's have gradients of other magnitudes: what compares is how each changes, and its two lines.
        axes.set_yscale("log")
    elif shown:
        margin = 0.06 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def figure(arms: Sequence[Arm], path: Path) -> None:
    """All panels over optimizer steps; dashed: completions that are disliked."""
    columns = 3
    rows = math.ceil(len(PANELS) / columns)
    canvas, grid = plt.subplots(rows, columns, figsize=(11, 3.0 * rows), layout="constrained")
    for axes, (title, curves) in zip(grid.flat, PANELS, strict=False):
        draw(axes, arms, title, curves)
        axes.set_xlabel("optimizer steps", fontsize=8)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=min(len(arms), 5), fontsize=9, frameon=False)
    canvas.savefig(path, dpi=120)
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
