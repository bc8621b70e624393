"""The wrong runs that advice is tried on: those of the verdict study that are complete, in an order that was drawn once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from run_folder.rows import read_rows
from studies.files import load_study
from studies.study import ROOT, Cell

FAMILIES = {"embedded": "verdict", "second": "verdict/second", "poem": "verdict/poem"}
"""Name here -> study. Runs of 24 steps whose answers a judge reads."""

FALL = {"embedded": 0.06, "second": 0.06, "poem": 0.05}
"""By which the answers of a wrong run are worse at its end, as docs/results/verdict defines it."""

_FIRST = 50
"""Problems that the label leaves out."""


@dataclass(frozen=True)
class Case:
    """One wrong run."""

    family: str
    cell: Cell
    start: float
    end: float

    @property
    def name(self) -> str:
        """Unique; a folder."""
        return f"{self.family}_{self.cell.name}"

    @property
    def run(self) -> Path:
        """The run's folder, within the checkout."""
        return self.cell.folder


def wrong_cases() -> list[Case]:
    """Complete runs whose label is wrong, by a key that has nothing to do with how they ended."""
    return sorted(_wrong(), key=lambda case: hashlib.sha256(case.name.encode()).hexdigest())


def _wrong() -> Iterator[Case]:
    for family, study in FAMILIES.items():
        for cell in load_study(study).cells:
            if cell.is_complete:
                start, end = outcome_of(ROOT / cell.folder)
                if end <= start - FALL[family] + 1e-9:
                    yield Case(family, cell, start, end)


def outcome_of(folder: Path) -> tuple[float, float]:
    """Mean result of the answers in the label before training, and over the last two readings."""
    rows = read_rows(folder, "outcome")
    name = "task/accuracy" if "task/accuracy" in rows[0] else "task/score"
    means = [float(np.mean(row[name][_FIRST:])) for row in rows]
    return means[0], (means[-1] + means[-2]) / 2
