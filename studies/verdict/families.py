"""The labelled runs, family by family, with what a warning would have read at each step."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from callbacks.alarms.features import FEATURES, IN_MODEL, METRICS, WITH_JUDGED, lacking
from run_folder.rows import read_rows
from studies.files import load_study
from studies.study import ROOT, Cell
from studies.verdict.labels import Outcome, outcome_of

FAMILY_OF = {
    "verdict": "embedded",
    "verdict/rollouts": "embedded",
    "verdict/second": "second",
    "verdict/second_long": "second",
    "verdict/poem": "poem",
    "verdict/smollm2": "SmolLM2",
    "verdict/toy": "toy",
}
"""Study -> family."""
LATER = ("lost_beyond_doubt", "judged_fall")
DECLARED = tuple(number for number, feature in enumerate(FEATURES) if feature.name not in LATER)
"""Columns of the features that were declared before the first run."""
CHOSEN = tuple(number for number, feature in enumerate(FEATURES) if feature.name in IN_MODEL)
"""Columns of those that the shipped warning weighs."""
JUDGED = tuple(number for number, feature in enumerate(FEATURES) if feature.name in WITH_JUDGED)
"""The same where answers are judged."""
ANSWERED = ("embedded", "second", "poem")
"""Families whose answers are judged."""
DEVELOPMENT = frozenset(Path(__file__).with_name("development.txt").read_text(encoding="utf-8").splitlines())
"""The runs that were made before CHOSEN was chosen: its other runs say what the choice is worth."""
APART = "toy"
"""The family that is never trained on."""

Array = npt.NDArray[np.float64]
Steps = list[tuple[int, dict[str, float]]]


@dataclass(frozen=True)
class LabelledRun:
    """A complete run: where it belongs, what was read, how it ended."""

    cell: Cell
    outcome: Outcome

    @property
    def family(self) -> str:
        """What is left out together."""
        return FAMILY_OF[self.cell.study.name]

    @property
    def is_development(self) -> bool:
        """Whether it was there when the features were chosen."""
        return f"{self.cell.study.name} {self.cell.name}" in DEVELOPMENT

    @property
    def method(self) -> str:
        """Its loss or module."""
        return self.cell.levels["method"]

    @property
    def rate(self) -> float:
        """Learning rate."""
        return float(self.cell.levels["rate"])

    @cached_property
    def steps(self) -> Steps:
        """Every number of the rows, merged by step."""
        by_step: dict[int, dict[str, float]] = {}
        for name in ("likelihood", "degradation", "dispersion", "mass", "disentanglement", "softmax_grad", "on_policy", "toy"):
            for row in read_rows(ROOT / self.cell.folder, name):
                numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float) and key != "step"}
                by_step.setdefault(row["step"], {}).update(numbers)
        for step, numbers in self._logged():
            by_step.setdefault(step, {}).update(numbers)
        return sorted(by_step.items())

    def _logged(self) -> Iterator[tuple[int, dict[str, float]]]:
        """What the module logged and no rows hold."""
        path = ROOT / self.cell.folder / "metrics.csv"
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found = {name: float(value) for name, value in row.items() if value and name.startswith(("objective/", "train/"))}
                yield int(row["step"]), {name: value for name, value in found.items() if math.isfinite(value)}

    @cached_property
    def readings(self) -> list[tuple[int, dict[str, float], dict[str, float]]]:
        """(step, first readings, latest readings) at each reading of the bank after step 0."""
        bank = [(step, {name: numbers[name] for name in METRICS & numbers.keys()}) for step, numbers in self.steps]
        whole = [(step, numbers) for step, numbers in bank if not lacking(numbers)]
        if not whole:
            return []
        first = whole[0][1]
        return [(step, first, numbers) for step, numbers in whole[1:]]

    @cached_property
    def sizes(self) -> Array:
        """`[readings, features]` as the model takes them."""
        rows = [[feature.size(first, latest) for feature in FEATURES] for _, first, latest in self.readings]
        sizes = np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES))
        if self.outcome.judged and len(sizes):
            # Of problems that are in no label; the monitor's own accuracy is of all.
            sizes[:, -1] = [max(self._judged_at(step), 0.0) ** 0.5 for step in self.reading_steps]
        return sizes

    def _judged_at(self, step: int) -> float:
        return [fall for read_at, fall in self.outcome.judged if read_at <= step][-1]

    @property
    def reading_steps(self) -> list[int]:
        """Steps of the rows of `sizes`."""
        return [step for step, _, _ in self.readings]

    @property
    def length(self) -> int:
        """Steps of the run."""
        return self.steps[-1][0]


def load_runs() -> list[LabelledRun]:
    """Every complete run of every family."""
    cells = [cell for name in FAMILY_OF for cell in load_study(name).cells if cell.is_complete]
    return [LabelledRun(cell, outcome_of(cell, FAMILY_OF[cell.study.name])) for cell in cells]
