"""Reads a finished or running run from its folder."""

from __future__ import annotations

import csv
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from run_folder.rows import ROWS, Track, begun, read_rows, tracks_of

CONFIG, DOCTOR, NUMBERS = "config.yaml", "data_doctor.json", "metrics.csv"

_SUBCOMMANDS = ("fit", "validate", "test", "predict")

Tracks = dict[str, Track]

_SEED_ROWS, _SEED_PREFIX = "toy_seeds", "toy/"


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder, read."""

    folder: Path
    config: dict[str, Any]
    """What `config.yaml` holds."""
    tracks: Tracks
    """Every number of the rows, of the event files and of a CSVLogger's file, by metric."""
    seed_tracks: dict[str, list[Track]]
    """Tracks of metrics measured for several seeds side by side (the toy), one per seed."""
    alarms: list[dict[str, Any]]
    """Rows of `alarms.jsonl`: step, property, message."""
    verdicts: dict[str, str]
    """Property -> what the alarm's rules found, of the last row of `judged.jsonl`; empty where the run did not end."""
    heatmaps: list[dict[str, Any]]
    """Rows of `token_heatmap.jsonl`."""
    doctor: dict[str, Any]
    """What the data doctor wrote; empty where it was not switched on."""

    @property
    def subcommand(self) -> str:
        """Subcommand of train.py, as the first line of the config says."""
        return _subcommand(self.folder / CONFIG)

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.folder.parent.name

    @property
    def name(self) -> str:
        """Experiment and version."""
        return f"{self.experiment}/{self.folder.name}"

    def members(self, metric: str) -> list[Track]:
        """The curves of a metric: one for each seed that the run holds, none where it was not measured."""
        return self.seed_tracks.get(metric) or ([self.tracks[metric]] if metric in self.tracks else [])


def load_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        ValueError: if it is none: no config.yaml, or no readings of any kind.
    """
    folder = folder.resolve()
    if not (folder / CONFIG).is_file():
        raise ValueError(f"expected the folder of a run (it has a {CONFIG}), got {folder}.{_suggestion(folder)}")
    tracks = begun(csv_tracks(folder) | event_tracks(folder) | tracks_of(folder), folder)
    if not tracks:
        raise ValueError(
            f"expected rows in {folder / ROWS}, or TensorBoard event files or {NUMBERS} beside it, got none. "
            "The run has measured nothing: switch diagnostics on (configs/trainer/default.yaml has them all)."
        )
    return Run(
        folder=folder,
        config=_config(folder / CONFIG),
        tracks=tracks,
        seed_tracks=_seed_tracks(folder),
        alarms=read_rows(folder, "alarms"),
        verdicts=_verdicts(folder),
        heatmaps=read_rows(folder, "token_heatmap"),
        doctor=_doctor(folder / DOCTOR),
    )


def _verdicts(folder: Path) -> dict[str, str]:
    rows = read_rows(folder, "judged")
    return dict(rows[-1].get("verdicts", {})) if rows else {}


def _subcommand(config: Path) -> str:
    with config.open(encoding="utf-8") as lines:
        said = re.match(rf"# python train\.py ({'|'.join(_SUBCOMMANDS)})\b", lines.readline())
    return said[1] if said else "fit"


def _config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"expected YAML in {path}, got: {error}. Run it again, or leave it out of the report.") from error
    if not isinstance(config, dict):
        raise ValueError(f"expected a mapping in {path}, got {type(config).__name__}. Run it again, or leave it out of the report.")
    return config


def _doctor(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        warnings.warn(f"{path} is left out: expected JSON, got: {error}.", stacklevel=3)
        return {}
    return content if isinstance(content, dict) else {}


def event_tracks(folder: Path) -> Tracks:
    """Every scalar in the TensorBoard event files of a folder, by tag."""
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    # 0 keeps all scalars; of the rest, which the report does not read, as little as possible.
    events = EventAccumulator(str(folder), {SCALARS: 0, "images": 1, "histograms": 1, "compressedHistograms": 1, "tensors": 1})
    events.Reload()
    found = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()[SCALARS]}
    return {tag: sorted(values.items()) for tag, values in found.items()}


def csv_tracks(folder: Path) -> Tracks:
    """Every number in the file of a CSVLogger, by column; what is no number is left out."""
    if not (folder / NUMBERS).is_file():
        return {}
    found: dict[str, dict[int, float]] = {}
    with (folder / NUMBERS).open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            step = _number(row.pop("step", None))
            for name, cell in row.items():
                value = _number(cell)
                if step is not None and value is not None:
                    found.setdefault(name, {})[int(step)] = value
    return {name: sorted(values.items()) for name, values in found.items()}


def _number(cell: object) -> float | None:
    try:
        return float(str(cell)) if cell else None
    except ValueError:
        return None


def _seed_tracks(folder: Path) -> dict[str, list[Track]]:
    """`{metric: [track of each seed]}`; a reading that is no number is left out."""
    rows = read_rows(folder, _SEED_ROWS)
    names = {name: len(values) for row in rows for name, values in row.items() if name != "step"}
    return {
        f"{_SEED_PREFIX}{name}": [
            [(row["step"], row[name][seed]) for row in rows if name in row and row[name][seed] is not None] for seed in range(seeds)
        ]
        for name, seeds in names.items()
    }


def _suggestion(folder: Path) -> str:
    versions = sorted(path.parent.name for path in folder.glob(f"version_*/{CONFIG}"))
    return f" Did you mean {folder / versions[-1]}?" if versions else " Give folders such as runs/<experiment>/version_0."
