"""Reads the rows that callbacks wrote into a run's folder: by file, and as one track for every metric."""

from __future__ import annotations

import gzip
import json
import re
import sys
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROWS = "diagnostics"
"""Folder of the rows within a run's folder."""

ANSWERS = "test_responses"
"""Rows of problems that `test` answered, which have no step."""

PACKED = ".gz"
"""Ending of a part of the rows that is full, after that of the rows themselves."""

_PART = re.compile(r"(?P<name>.+?)(\.(?P<number>\d{4,}))?\.jsonl(\.gz)?")

_STARTS = "starts.json"

Track = list[tuple[int, float]]
"""(step, value) of one metric, in order."""


def part_of(path: Path) -> tuple[str, int]:
    """Whose rows a file has, and which part of them: 1, 2, ...; the newest one, which has no number, comes after all."""
    match = _PART.fullmatch(path.name)
    return (match["name"], int(match["number"] or sys.maxsize)) if match else ("", 0)


def parts_of(rows: Path, name: str) -> list[Path]:
    """The numbered parts in `<run>/diagnostics` that a name's rows have been moved to, oldest first."""
    # A part that stands there both packed and not was being packed when the run died: one of them.
    parts = {part_of(path): path for ending in ("", PACKED) for path in rows.glob(f"{name}.*.jsonl{ending}")}
    return [parts[key] for key in sorted(parts) if key[0] == name]


def row_names(folder: Path) -> list[str]:
    """Names that a run has rows of."""
    files = [*(folder / ROWS).glob("*.jsonl"), *(folder / ROWS).glob(f"*.jsonl{PACKED}")]
    return sorted({part_of(path)[0] for path in files if not path.name.startswith(".")})


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of `<run>/diagnostics/<name>.jsonl` and of its packed parts, in order; none where there is no such file.

    A line that is no row of a step (or of a problem, in `ANSWERS`), as a full disk or a killed run leaves it, is left out with a
    warning that names it.
    """
    newest = folder / ROWS / f"{name}.jsonl"
    paths = [*parts_of(newest.parent, name), *([newest] if newest.is_file() else [])]
    lines = ((line, f"{path} line {number}") for path in paths for number, line in enumerate(_lines(path), start=1))
    read = (_row(line, place, has_step=name != ANSWERS) for line, place in lines)
    return [row for row in read if row is not None]


def _lines(path: Path) -> list[bytes]:
    if path.suffix != PACKED:
        return path.read_bytes().splitlines()
    try:
        return gzip.decompress(path.read_bytes()).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        warnings.warn(f"{path} is left out: expected rows packed by gzip, got: {error}.", stacklevel=4)
        return []


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
    """Every number in the rows of a run, by metric; of a step that stands twice, the last value.

    A resumed run's begin where the run began that it goes on from (`begun`).
    """
    tracks: dict[str, dict[int, float]] = {}
    for row in (row for name in row_names(folder) if name != ANSWERS for row in read_rows(folder, name)):
        for metric, value in row.items():
            if isinstance(value, int | float) and metric != "step":
                tracks.setdefault(metric, {})[row["step"]] = value
    return begun({name: sorted(values.items()) for name, values in tracks.items()}, folder)


def begun(tracks: Mapping[str, Track], folder: Path) -> dict[str, Track]:
    """The tracks from the first reading on, which may be one of the run that was resumed, as `write_starts` has kept it."""
    path = folder / ROWS / _STARTS
    starts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    first = {name: (int(step), float(value)) for name, (step, value) in starts.items()}
    earlier = {name: [first[name]] for name, track in tracks.items() if name in first and track and first[name][0] < track[0][0]}
    return {name: earlier.get(name, []) + list(track) for name, track in tracks.items()}


def write_starts(folder: Path, starts: Mapping[str, tuple[int, float]]) -> None:
    """Keep the first readings of a run in the folder of one that goes on from it: `{metric: (step, value)}`."""
    path = folder / ROWS / _STARTS
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one move: a run may be killed while it starts.
    path.with_suffix(".part").write_text(json.dumps(starts), encoding="utf-8")
    path.with_suffix(".part").replace(path)


def first_warning(folder: Path) -> dict[str, Any] | None:
    """The row of a run's first warning; None where there was none. A row without a level is from before notices had one."""
    rows = [row for row in read_rows(folder, "alarms") if row.get("level", "warning") == "warning"]
    return min(rows, key=lambda row: int(row["step"]), default=None)


def first_warning_since(folder: Path) -> int | None:
    """The step from which what a run was first warned of had shown."""
    row = first_warning(folder)
    return None if row is None else int(row.get("since") or row["step"])
