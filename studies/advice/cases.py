"""The wrong runs that advice is tried on: those of the verdict study, in an order that was drawn once."""

from __future__ import annotations

import hashlib
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


def cells_in_order() -> list[tuple[str, Cell]]:
    """Family and run of every cell there is, by a key that has nothing to do with how they end."""
    found = [(family, cell) for family, study in FAMILIES.items() for cell in load_study(study).cells]
    return sorted(found, key=lambda one: hashlib.sha256(f"{one[0]}_{one[1].name}".encode()).hexdigest())


def wrong_case(family: str, cell: Cell) -> Case | None:
    """The case of a complete run whose label is wrong; None of others."""
    if not cell.is_complete:
        return None
    start, end = outcome_of(ROOT / cell.folder)
    return Case(family, cell, start, end) if end <= start - FALL[family] + 1e-9 else None


def outcome_of(folder: Path) -> tuple[float, float]:
    """Mean result of the answers in the label before training, and over the last two readings."""
    rows = read_rows(folder, "outcome")
    name = "task/accuracy" if "task/accuracy" in rows[0] else "task/score"
    means = [float(np.mean(row[name][_FIRST:])) for row in rows]
    return means[0], (means[-1] + means[-2]) / 2
