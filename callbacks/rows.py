"""The rows that callbacks wrote into a run's folder, read again: by file, and as one track for every metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS = "diagnostics"
"""Folder of the rows within a run's folder."""

Track = list[tuple[int, float]]
"""(step, value) of one metric, in order."""


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of `<run>/diagnostics/<name>.jsonl`, in order; none where there is no such file."""
    path = folder / ROWS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def tracks_of(folder: Path) -> dict[str, Track]:
    """Every number in the rows of a run, by metric; of a step that stands twice (a resumed run), the last value."""
    tracks: dict[str, dict[int, float]] = {}
    for path in sorted((folder / ROWS).glob("*.jsonl")):
        for row in read_rows(folder, path.stem):
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    tracks.setdefault(name, {})[row["step"]] = value
    return {name: sorted(values.items()) for name, values in tracks.items()}
