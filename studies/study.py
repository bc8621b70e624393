"""A study: a grid of runs and the page that is made of them; `studies.files` reads it from its YAML."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from run_folder.rows import read_rows

ROOT = Path(__file__).parent.parent
RUNS = Path("runs") / "studies"
"""Folder of all runs, within the checkout."""
SEED = "seed"

_OTHER_CELL = re.compile(r"\{cell ([^}]*)\}")


@dataclass(frozen=True)
class Level:
    """One value of a factor, and what it adds to a run."""

    name: str
    options: tuple[str, ...] = ()
    """Options of train.py."""
    experiment: str | None = None
    """Replaces the study's."""
    title: str | None = None
    """What tables call it; its name by default."""


@dataclass(frozen=True)
class Complete:
    """What a whole run has left in its folder."""

    rows: str | None = None
    """File of rows whose last row stands at `step`."""
    step: int | None = None
    path: str | None = None
    """A file or a folder that a run writes last, such as `policy`."""

    def holds(self, folder: Path) -> bool:
        """Whether the run in this folder is whole."""
        if self.path is not None:
            return (folder / self.path).exists()
        rows = read_rows(folder, str(self.rows))
        return bool(rows) and rows[-1]["step"] == self.step


@dataclass(frozen=True)
class Cell:
    """One run of a study: a level of every factor."""

    study: Study
    levels: Mapping[str, str]
    """Factor -> name of its level."""

    @property
    def name(self) -> str:
        """Unique in the study: the levels, the seed last. A level that starts with no letter is preceded by its factor."""
        ordered = sorted(self.levels.items(), key=lambda item: item[0] == SEED)
        return "_".join(level if level[:1].isalpha() else f"{factor}{level}" for factor, level in ordered)

    @property
    def folder(self) -> Path:
        """Where its rows are; relative to the checkout, as a config should name it."""
        return self.study.runs / self.name / "version_0"

    @property
    def is_complete(self) -> bool:
        """Whether it was run to its end."""
        return self.study.complete.holds(ROOT / self.folder)

    @property
    def is_needed(self) -> bool:
        """Whether the page would read it, as far as the runs that are there tell."""
        return self.study.needed is None or bool(importlib.import_module(self.study.needed).is_needed(self))

    @property
    def chosen(self) -> list[Level]:
        """Its level of every factor."""
        return [self.study.grid[factor][level] for factor, level in self.levels.items()]

    @property
    def title(self) -> str:
        """What tables and figures call it: its levels but for the seed."""
        named = [(factor, self.study.grid[factor][level]) for factor, level in self.levels.items() if factor != SEED]
        shown = [level.title or (level.name if level.name[:1].isalpha() else f"{factor} {level.name}") for factor, level in named]
        return ", ".join(shown) or self.name

    def needs(self) -> list[Cell]:
        """The runs that its options start from."""
        options = [*self.study.options, *itertools.chain.from_iterable(level.options for level in self.chosen)]
        return [self._other(match[1]) for option in options for match in _OTHER_CELL.finditer(option)]

    def command(self) -> list[str]:
        """Arguments of train.py."""
        experiments = [self.study.experiment, *(level.experiment for level in self.chosen)]
        experiment = [name for name in experiments if name][-1]
        options = [*self.study.options, *itertools.chain.from_iterable(level.options for level in self.chosen)]
        logger = {"save_dir": str(self.study.runs), "name": self.name, "version": "0"}
        return [
            *("fit", "--config", f"configs/experiment/{experiment}.yaml"),
            *map(self._filled, options),
            *(word for key, value in logger.items() for word in (f"--trainer.logger.{key}", value)),
        ]

    def _filled(self, option: str) -> str:
        """`{factor}` becomes the level's name, `{cell method=dpo}` the folder of the run that differs in that alone."""
        filled = _OTHER_CELL.sub(lambda match: str(self._other(match[1]).folder), option)
        return re.sub(r"\{(\w+)\}", lambda match: self.levels.get(match[1], match[0]), filled)

    def _other(self, differences: str) -> Cell:
        changed = dict(pair.strip().split("=", 1) for pair in differences.split(","))
        for factor, level in changed.items():
            self.study.require_level(factor, level, "{cell ...}")
        return replace(self, levels={**self.levels, **changed})


@dataclass(frozen=True)
class Study:
    """A grid of runs, and the page that is made of them."""

    name: str
    """Its file within `studies`, without the ending."""
    title: str
    grid: Mapping[str, Mapping[str, Level]]
    """Factor -> level -> what it adds. The first factor varies slowest. Empty: a page that measures without a run."""
    complete: Complete
    experiment: str | None = None
    options: tuple[str, ...] = ()
    skip: tuple[Mapping[str, Any], ...] = ()
    quick: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    page: str | None = None
    """Module whose `write(study)` writes the page."""
    prepare: str | None = None
    """Module whose `prepare(study)` writes files that the runs read."""
    needed: str | None = None
    """Module whose `is_needed(cell)` says whether the page reads a run: what runs before it may decide that."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the YAML says beside all this: settings of the page."""
    is_quick: bool = False
    """Whether it is cut to the levels of `quick`."""

    def setting(self, name: str) -> str:
        """A setting that this machine has to give: `page <study> --set name=value`.

        Raises:
            ValueError: where nobody gave it.
        """
        if self.settings.get(name) is None:
            raise ValueError(f"expected {name}, got none. Give it: python -m studies page {self.name} --set {name}=...")
        return str(self.settings[name])

    @property
    def runs(self) -> Path:
        """Folder of its runs; relative to the checkout."""
        return RUNS / self.name

    @property
    def out(self) -> Path:
        """Folder of its page; a quick page never takes the place of a full one."""
        return ROOT / (
            self.runs / "quick_page" if self.is_quick else Path("docs") / "results" / self.settings.get("out", self.name)
        )

    @cached_property
    def cells(self) -> list[Cell]:
        """Every run, in the order in which they are made."""
        kept = {
            factor: [name for name in levels if not self.is_quick or name in self.quick.get(factor, levels)]
            for factor, levels in self.grid.items()
        }
        if not kept:
            return []
        product = (dict(zip(kept, names, strict=True)) for names in itertools.product(*kept.values()))
        return [Cell(self, levels) for levels in product if not any(matches(levels, skipped) for skipped in self.skip)]

    def select(self, only: Mapping[str, Sequence[str]]) -> list[Cell]:
        """The runs whose level of each named factor is among those given.

        Raises:
            ValueError: for a factor or a level that the grid does not have.
        """
        for factor, names in only.items():
            for name in names:
                self.require_level(factor, name, "--only")
        return [cell for cell in self.cells if matches(cell.levels, only)]

    def groups(self, over: Sequence[str] = (SEED,)) -> dict[str, list[Cell]]:
        """Title -> the complete runs that differ in the factors `over` alone; a group without one is left out."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if cell.is_complete:
                kept = {factor: level for factor, level in cell.levels.items() if factor not in over}
                found.setdefault(replace(cell, levels=kept).title if kept else self.title, []).append(cell)
        return found

    def require_level(self, factor: str, level: str, place: str) -> None:
        """Raises ValueError where the grid has no such level."""
        if level not in self.grid.get(factor, {}):
            grid = "; ".join(f"{name}: {', '.join(levels)}" for name, levels in self.grid.items())
            raise ValueError(
                f"expected a factor and a level of the study {self.name} in {place}, got {factor}={level}. It has {grid}."
            )


def matches(levels: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    """Whether the level of every factor in `wanted` is the one named there, or one of those in the list there."""
    return all(levels.get(factor) in _names(value) for factor, value in wanted.items())


def _names(value: Any) -> list[str]:  # noqa: ANN401
    return [str(name) for name in value] if isinstance(value, list | tuple) else [str(value)]
