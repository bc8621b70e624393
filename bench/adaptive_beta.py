"""AdaptiveBeta and reward calibration against fixed losses: `python -m bench.adaptive_beta [toy] [runs] [table]`.

To docs/results/adaptive_beta. The embedded model with seeds of the order of the data and of the probe bank, and the toy, both in
scenario 1. Accuracy and off-data mass are those of docs/results/alarm.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bench.alarm_runs import EMBEDDED, ROOT, TOY, Run, loss_options, make
from run_folder.rows import Track, tracks_of
from studies.readings import markdown_table as table

OUT = ROOT / "docs" / "results" / "adaptive_beta"
SEEDS, RATE, SCENARIO = range(5), "3e-4", 1

ADAPTIVE = [
    *loss_options("flex_dpo", beta_chosen=0.1, beta_rejected=0.1),
    *("--trainer.callbacks+", "callbacks.control.adaptive_beta.AdaptiveBeta"),
]
CALIBRATION = ("--trainer.callbacks+", "callbacks.control.reward_calibration.RewardCalibration")
METHODS = {
    "dpo": loss_options("dpo", beta=0.1),
    "flex_dpo_0.8": loss_options("flex_dpo", beta_chosen=0.1, beta_rejected=0.08),
    "flex_dpo_0.4": loss_options("flex_dpo", beta_chosen=0.1, beta_rejected=0.04),
    "sft_dpo": loss_options("sft_dpo", beta=0.1, gamma=0.1),
    "cal_dpo": loss_options("cal_dpo"),
    "adaptive": ADAPTIVE,
    "reward_calibration": [*loss_options("calibrated", **{"loss.init_args.beta": 0.1}), *CALIBRATION],
    # Each step's reading as it is, so that the ratio need not travel from where it starts.
    "adaptive_decay_0": [*ADAPTIVE, "--trainer.callbacks.decay", "0"],
}
LATER = ("reward_calibration", "adaptive_decay_0")
"""Methods that came after the labelled set of docs/results/alarm was defined, and are not in it."""
SETTING = replace(EMBEDDED, name="beta", methods=METHODS, seeds=tuple(SEEDS))

TOY_METHODS = {
    "dpo": loss_options("dpo", beta=0.02),
    "flex_dpo_0.8": loss_options("flex_dpo", beta_chosen=0.02, beta_rejected=0.016),
    "flex_dpo_0.4": loss_options("flex_dpo", beta_chosen=0.02, beta_rejected=0.008),
    "sft_dpo": loss_options("sft_dpo", beta=0.02, gamma=0.01),
    "cal_dpo": loss_options("cal_dpo"),
    "adaptive": [
        *loss_options("flex_dpo", beta_chosen=0.02, beta_rejected=0.02),
        *("--trainer.callbacks+", "callbacks.control.adaptive_beta.AdaptiveBeta"),
    ],
    "reward_calibration": [*loss_options("calibrated", **{"loss.init_args.beta": 0.02}), *CALIBRATION],
}
TOY_SETTING = replace(
    TOY, name="beta_toy", methods=TOY_METHODS, options=("--trainer", "bench/alarm_toy.yaml", "--data.num_seeds", str(len(SEEDS)))
)
TOY_RATE = "1e-4"

AGAINST = ("dpo", "flex_dpo_0.4", "sft_dpo")
"""Methods that all others are compared with, in pairs."""
FOLLOWED = {"beta- / beta+, last": "adaptive_beta/ratio", "gain, last": "reward_calibration/gain"}
"""Heading -> metric of the numbers that follow the band."""
COLUMNS: dict[str, tuple[str, int]] = {
    "accuracy, step 0": ("task/accuracy", 0),
    "accuracy, steps 15 and 20": ("task/accuracy", 2),
    "off-data mass, change": ("known_mass/known", -1),
    "chosen, nats per token": ("likelihood/bank/chosen/change_per_token", 1),
    "rejected, nats per token": ("likelihood/bank/rejected/change_per_token", 1),
    "cosine of s_w and s_l, mean": ("head/cosine", 3),
    "band violated, mean": ("head/band_violated", 3),
    **{heading: (metric, 1) for heading, metric in FOLLOWED.items()},
}
"""Heading -> (metric, how it is read: see `reading`)."""


def runs() -> list[Run]:
    """Seeds outermost, so that a set that is cut short has whole seeds."""
    return [Run(SETTING, method, SCENARIO, RATE, seed) for seed, method in itertools.product(SEEDS, METHODS)]


def labelled_runs() -> list[Run]:
    """Those that belong to the labelled set of docs/results/alarm."""
    return [run for run in runs() if run.method not in LATER]


def toy_runs() -> list[Run]:
    """Scenario 1 of the toy, all seeds side by side: a ratio is the mean over them."""
    return [Run(TOY_SETTING, method, SCENARIO, TOY_RATE, 0) for method in TOY_METHODS]


def toy_rows() -> list[list[str]]:
    """Where the probability of the chosen response ends and how high it was, mean ± standard deviation over seeds."""
    lines = []
    for run in toy_runs():
        if run.is_complete:
            tracks = tracks_of(run.folder)
            chosen, deviation = dict(tracks["toy/own_chosen"]), dict(tracks["toy/spread/own_chosen"])
            peak = max(chosen, key=lambda step: chosen[step])
            cells = [f"{chosen[step]:.3f} ± {deviation[step]:.3f}" for step in (peak, run.setting.steps)]
            numbers = [f"{tracks[name][-1][1]:.2f}" if name in tracks else "" for name in FOLLOWED.values()]
            lines.append([run.method, *cells, str(peak), f"{tracks['dispersion/bank/off_pair_mass'][-1][1]:.3f}", *numbers])
    return lines


def reading(track: Track, how: int) -> float:
    """0: the first value; 1: the last; 2: the mean of the last two; 3: the mean of all; -1: the fall from the first to the last."""
    values = [value for _, value in track]
    last_two = sum(values[-2:]) / len(values[-2:])
    return {0: values[0], 1: values[-1], 2: last_two, 3: sum(values) / len(values), -1: values[0] - values[-1]}[how]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds; of a single seed its value."""
    if not values:
        return ""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def rows() -> list[list[str]]:
    """A row a method, and its accuracy minus that of the methods in `AGAINST`, seed by seed."""
    complete = [run for run in runs() if run.is_complete]
    tracks = {(run.method, run.seed): tracks_of(run.folder) for run in complete}
    accuracy = {key: reading(track["task/accuracy"], 2) for key, track in tracks.items()}
    lines = []
    for method in METHODS:
        seeds = [seed for name, seed in tracks if name == method]
        cells = [
            spread([reading(tracks[method, seed][metric], how) for seed in seeds if metric in tracks[method, seed]])
            for metric, how in COLUMNS.values()
        ]
        gains = [
            [accuracy[method, seed] - accuracy[other, seed] for seed in seeds if (other, seed) in accuracy and other != method]
            for other in AGAINST
        ]
        lines.append([method, str(len(seeds)), *cells, *map(spread, gains)])
    return lines


def write_table() -> None:
    """docs/results/adaptive_beta/table.md."""
    OUT.mkdir(parents=True, exist_ok=True)
    embedded = table(["method", "seeds", *COLUMNS, *(f"accuracy minus that of {other}, paired" for other in AGAINST)], rows())
    toy = table(["method", "chosen, highest", "chosen, step 2000", "highest at", "mass outside the pair", *FOLLOWED], toy_rows())
    title = "# AdaptiveBeta and reward calibration in numbers"
    preface = "Mean ± standard deviation over seeds. Written by `python -m bench.adaptive_beta table`."
    sections = [title, preface, f"## Embedded model, scenario {SCENARIO}, learning rate {RATE}", embedded]
    sections += [f"## Toy, scenario {SCENARIO}, learning rate {TOY_RATE}, {len(SEEDS)} seeds", toy]
    (OUT / "table.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def main(parts: list[str]) -> None:
    """Make the runs, then the table."""
    if not parts or "toy" in parts:
        make(toy_runs())
    if not parts or "runs" in parts:
        make(runs())
    if not parts or "table" in parts:
        write_table()


if __name__ == "__main__":
    main(sys.argv[1:])
