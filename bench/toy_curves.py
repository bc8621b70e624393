"""Curves of the toy's runs and of the paper's plots, as arrays and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from run_folder.rows import read_rows

Floats = NDArray[np.float64]

UNDERFLOW = 2.0**-150
"""Half the smallest float32: below it a probability is exactly 0 there."""

NEARLY_ZERO = 0.005
"""A smaller value cannot be told from 0 in the paper's plots."""


@dataclass(frozen=True)
class PaperCurves:
    """One scenario of the paper's Fig. 3, read off the plot to about 0.005 and 20 epochs."""

    chosen_peak: float
    chosen_peak_at: int
    min_peak: float
    min_peak_at: int
    chosen_end: float
    min_end: float
    rejected_gone_by: int
    unseen: tuple[float, float, float]
    """Start, minimum, end of the curve the paper calls unseen."""


PAPER = {
    1: PaperCurves(0.585, 1000, 0.47, 970, 0.348, 0.165, 450, (0.095, 0.052, 0.0815)),
    2: PaperCurves(0.489, 590, 0.417, 600, 0.185, 0.026, 400, (0.107, 0.064, 0.163)),
    3: PaperCurves(0.490, 940, 0.457, 840, 0.156, 0.034, 250, (0.107, 0.064, 0.169)),
    4: PaperCurves(0.401, 660, 0.243, 520, 0.116, 0.070, 250, (0.120, 0.075, 0.177)),
}

PAPER_S1_CHOSEN = {0: 0.12, 250: 0.28, 500: 0.415, 750: 0.495, 1000: 0.585, 1250: 0.548, 1500: 0.52, 2000: 0.348}
"""More readings of scenario 1: mean chosen probability by epoch."""

PAPER_GRADIENTS = {
    "chosen": {0: -0.33, 500: -1.9},
    "rejected": {0: -0.33, 200: 6.5, 300: 16.7, 400: 30.4, 500: 46.5},
}
"""Fig. 2 middle: log10 of the gradient in pi of each side, by epoch. Its scenario is not stated."""


@dataclass(frozen=True)
class Curves:
    """Every reading of every seed of a run."""

    steps: NDArray[np.int64]
    """`[T]`."""
    values: dict[str, Floats]
    """`{reading: [T, S]}`, NaN where a row has none."""

    @classmethod
    def load(cls, run: Path) -> Curves:
        """The newest version of a run.

        Raises:
            ValueError: if there is none.
        """
        versions = sorted(run.glob("version_*"), key=lambda folder: int(folder.name.split("_")[1]))
        rows = read_rows(versions[-1], "toy_seeds") if versions else []
        if not rows:
            raise ValueError(f"expected rows of a toy run in {run}, got none. Run: python -m bench.toy_runs {run.name}")
        names = [name for name in rows[-1] if name != "step"]
        missing = [None] * len(rows[0]["own_chosen"])
        values = {name: np.array([row.get(name, missing) for row in rows], dtype=np.float64) for name in names}
        return cls(np.array([row["step"] for row in rows]), values)

    def at(self, name: str, step: int) -> Floats:
        """`[S]` a reading at a step."""
        row: Floats = self.values[name][int(np.flatnonzero(self.steps == step)[0])]
        return row

    def peak(self, name: str) -> tuple[Floats, Floats]:
        """`([S], [S])` each seed's highest value, and the step it is reached at."""
        return self.values[name].max(0), self.steps[self.values[name].argmax(0)].astype(np.float64)

    def first_below(self, name: str, threshold: float) -> Floats:
        """`[S]` first step at which a reading is below the threshold; NaN for seeds that never get there."""
        below = self.values[name] < threshold
        return np.where(below.any(0), self.steps[below.argmax(0)], np.nan)
