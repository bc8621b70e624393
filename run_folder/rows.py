"""Reads the rows that callbacks wrote into a run's folder: by file, and as one track for every metric."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

ROWS = "diagnostics"
"""Folder of the rows within a run's folder."""

ANSWERS = "test_responses"
"""Rows of problems that `test` answered, which have no step."""

Track = list[tuple[int, float]]
"""(step, value) of one metric, in order."""


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of `<run>/diagnostics/<name>.jsonl`, in order; none where there is no such file.

    A line that is no row of a step (or of a problem, in `ANSWERS`), as a full disk or a killed run leaves it, is left out with a
    warning that names it.
    """
    path = folder / ROWS / f"{name}.jsonl"
    if not path.is_file():
        return []
    lines = enumerate(path.read_bytes().splitlines(), start=1)
    read = (_row(line, f"{path} line {number}", has_step=name != ANSWERS) for number, line in lines)
    return [row for row in read if row is not None]


def _row(line: bytes, place: str, *, has_step: bool) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        if isinstance(row, dict) and (not has_step or isinstance(row.get("step"), int)):
            return row
        reason = "it has no step"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    warnings.warn(f"{place} is left out: expected a row in JSON, got {line[:60]!r} ({reason}).", stacklevel=3)
    return None


def tracks_of(folder: Path) -> dict[str, Track]:
    """Every number in the rows of a run, by metric; of a step that stands twice (a resumed run), the last value."""
    tracks: dict[str, dict[int, float]] = {}
    for path in sorted(path for path in (folder / ROWS).glob("*.jsonl") if path.stem != ANSWERS):
        for row in read_rows(folder, path.stem):
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    tracks.setdefault(name, {})[row["step"]] = value
    return {name: sorted(values.items()) for name, values in tracks.items()}


def first_warning(folder: Path) -> dict[str, Any] | None:
    """The row of a run's first warning; None where there was none. A row without a level is from before notices had one."""
    rows = [row for row in read_rows(folder, "alarms") if row.get("level", "warning") == "warning"]
    return min(rows, key=lambda row: int(row["step"]), default=None)


def first_warning_since(folder: Path) -> int | None:
    """The step from which what a run was first warned of had shown."""
    row = first_warning(folder)
    return None if row is None else int(row.get("since") or row["step"])
