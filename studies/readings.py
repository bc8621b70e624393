"""Reads one number a run (or a seed within a run), and computes mean and spread over runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.groups import Curve, Group
from reports.runs import Run, load_run
from studies.study import ROOT, SEED, Study

Floats = NDArray[np.float64]


def _first_below(curve: Curve, level: float) -> Floats:
    below = curve.values < level
    return np.where(below.any(0), curve.steps[below.argmax(0)], np.nan)


def _detour(curve: Curve, _: float) -> Floats:
    moves = np.diff(curve.values, axis=0)
    return np.asarray(np.abs(moves).sum(0) - np.abs(moves.sum(0)))


READ: dict[str, Callable[[Curve, float], Floats]] = {
    "first": lambda curve, _: curve.values[0],
    "last": lambda curve, _: curve.values[-1],
    "last_two": lambda curve, _: curve.values[-2:].mean(0),
    "mean": lambda curve, _: curve.values.mean(0),
    "change": lambda curve, _: curve.values[-1] - curve.values[0],
    "highest": lambda curve, _: curve.values.max(0),
    "highest_at": lambda curve, _: curve.steps[curve.values.argmax(0)].astype(np.float64),
    "lowest": lambda curve, _: curve.values.min(0),
    # Since the highest reading.
    "lost": lambda curve, _: curve.values.max(0) - curve.values[-1],
    # How far a curve goes back and forth: all its moves less the net one; 0 if it never turns.
    "detour": _detour,
    "first_below": _first_below,
    "last_step": lambda curve, _: np.full(curve.values.shape[1], float(curve.steps[-1])),
    # 1 for a member that lost more than `level` since its highest reading, else 0.
    "falls": lambda curve, level: (curve.values.max(0) - curve.values[-1] > level).astype(np.float64),
}
"""How a curve `[steps, members]` becomes a number a member."""


@dataclass(frozen=True)
class Reading:
    """One column of a table."""

    heading: str
    metric: str | tuple[str, ...]
    """Of several the mean is taken."""
    read: str = "last"
    minus: str | None = None
    """A metric whose reading is taken off."""
    scale: float = 1.0
    digits: int = 3
    is_signed: bool = False
    """Whether a gain is written with a plus."""
    level: float = 0.0
    """Of `first_below` and `falls`."""
    form: str = "spread"
    """`spread`: mean ± standard deviation; `count`: how many members have a value of 1; `values`: the different values."""

    @classmethod
    def of(cls, given: dict[str, Any]) -> Reading:
        """From YAML.

        Raises:
            ValueError: for a way to read that is not in `READ`.
        """
        metric = given["metric"]
        reading = cls(**{**given, "metric": tuple(metric) if isinstance(metric, list) else metric})
        if reading.read not in READ:
            raise ValueError(f"expected one of {', '.join(READ)} for read of {reading.heading}, got {reading.read}.")
        return reading

    def values(self, group: Group) -> Floats:
        """`[members]`; empty where the group has not measured it."""
        names = (self.metric,) if isinstance(self.metric, str) else self.metric
        read = [self._read(group, name) for name in names]
        if self.minus is not None:
            read = [own - self._read(group, self.minus) for own in read if own.size]
        found = [own for own in read if own.size]
        return self.scale * np.mean(found, axis=0) if found else np.empty(0)

    def cell(self, group: Group) -> str:
        """As the table shows it."""
        values = self.values(group)
        if self.form == "count":
            return f"{int(values.sum())} of {values.size}" if values.size else ""
        if self.form == "values":
            return ", ".join(f"{value:.{self.digits}f}" for value in sorted(set(values)))
        return spread(values, self.digits, is_signed=self.is_signed)

    def _read(self, group: Group, metric: str) -> Floats:
        curve = group.curve(metric)
        return np.empty(0) if curve is None else np.asarray(READ[self.read](curve, self.level), dtype=np.float64)


def spread(values: Sequence[float] | Floats, digits: int = 3, *, is_signed: bool = False) -> str:
    """Mean ± standard deviation over the members that have a value; says so where some have none."""
    given = np.asarray(values, dtype=np.float64)
    known = given[~np.isnan(given)]
    if not given.size:
        return ""
    if not known.size:
        return "never"
    text = f"{known.mean():{'+' if is_signed else ''}.{digits}f}"
    text += f" ± {known.std(ddof=1):.{digits}f}" if known.size > 1 else ""
    return text if known.size == given.size else f"{text} ({known.size} of {given.size} seeds)"


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def groups_of(study: Study, over: Sequence[str] = (SEED,)) -> list[Group]:
    """The complete runs of a study, those that differ in the factors `over` alone as one group."""
    return [Group(title, tuple(_run(ROOT / cell.folder) for cell in cells)) for title, cells in study.groups(over).items()]


@cache
def _run(folder: Path) -> Run:
    return load_run(folder)
