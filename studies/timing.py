"""Measures how long runs took, and estimates how long the missing ones will take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean

from studies.study import ROOT, SEED, Cell, Study

_FILE = "seconds.json"


def note_seconds(cell: Cell, seconds: float) -> None:
    """Keep what a run took, beside its folder."""
    (ROOT / cell.folder.parent / _FILE).write_text(json.dumps(round(seconds, 1)), encoding="utf-8")


def seconds_of(cell: Cell) -> float | None:
    """What a complete run took; None where nobody measured it."""
    file = ROOT / cell.folder.parent / _FILE
    return float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() and cell.is_complete else None


def expected_seconds(study: Study, cells: Sequence[Cell]) -> list[float | None]:
    """For each run: what the same run took with other seeds, otherwise the mean of all that were measured; None where none was."""
    measured = [(_without_seed(cell), seconds) for cell in study.cells if (seconds := seconds_of(cell)) is not None]
    overall = mean(seconds for _, seconds in measured) if measured else None
    found: list[float | None] = []
    for cell in cells:
        own = [seconds for levels, seconds in measured if levels == _without_seed(cell)]
        found.append(mean(own) if own else overall)
    return found


def total(seconds: Sequence[float | None]) -> str:
    """A duration for people; "unknown" where nothing was measured yet."""
    if not seconds:
        return "-"
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return "unknown"
    minutes, rest = divmod(round(sum(known)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _without_seed(cell: Cell) -> dict[str, str]:
    return {factor: level for factor, level in cell.levels.items() if factor != SEED}
