"""Groups runs whose configs differ only in seeds into one curve with a band, and names the differences between groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.runs import Run

Floats = NDArray[np.float64]
Transform = Callable[[Floats], Floats]

_NOT_SETTINGS = ("trainer.logger", "trainer.default_root_dir", "ckpt_path", "weights_only")
_MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric of a group: mean and range over its members (runs, or seeds within a run)."""

    steps: NDArray[np.int64]
    """`[T]` the steps that every member has."""
    values: Floats
    """`[T, members]`."""

    @property
    def mean(self) -> Floats:
        """`[T]`."""
        return np.asarray(self.values.mean(1))

    @property
    def low(self) -> Floats:
        """`[T]` smallest member."""
        return np.asarray(self.values.min(1))

    @property
    def high(self) -> Floats:
        """`[T]` largest member."""
        return np.asarray(self.values.max(1))

    @property
    def has_band(self) -> bool:
        """Whether there is more than one member."""
        return bool(self.values.shape[1] > 1)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs whose configs differ in nothing but seeds."""

    label: str
    runs: tuple[Run, ...]

    def curve(self, metric: str, transform: Transform | None = None) -> Curve | None:
        """The metric of all members at the steps they have in common; None where there is none.

        Args:
            metric: its name.
            transform: applied to every member's values before means are taken; what is not finite then becomes NaN.
        """
        members = [dict(track) for run in self.runs for track in run.members(metric)]
        steps = sorted(set.intersection(*(set(member) for member in members))) if members else []
        if not steps:
            return None
        values = np.array([[member[step] for member in members] for step in steps], dtype=np.float64)
        if transform is not None:
            with np.errstate(all="ignore"):
                values = transform(values)
        return Curve(np.array(steps), np.where(np.isfinite(values), values, np.nan))

    def metrics(self) -> list[str]:
        """Names of all metrics of its runs, in order."""
        return list(dict.fromkeys(name for run in self.runs for name in (*run.tracks, *run.seed_tracks)))


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs by their settings, in order of appearance; labels tell the groups apart."""
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        by_settings.setdefault(repr(sorted(settings(run.config).items())), []).append(run)
    members = [tuple(group) for group in by_settings.values()]
    return [Group(_label(group, members), group) for group in members]


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """`{dotted key: value}` of everything in a config but seeds, where the run was logged, and what it resumed from."""
    return {
        key: value
        for key, value in _leaves(config, "")
        if not key.startswith(_NOT_SETTINGS) and not key.endswith(("seed_everything", ".seed", "cache_dir"))
    }


def differences(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values are not the same in all configs; a part that is missing somewhere counts by its class alone."""
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({config.get(key) for config in configs}) > 1]
    classes = {key.removesuffix("class_path") for key in differing if key.endswith("class_path")}
    return [key for key in differing if key.endswith("class_path") or not any(key.startswith(prefix) for prefix in classes)]


def _leaves(value: object, key: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}[{number}]")
    else:
        yield key, str(value)


def _label(group: tuple[Run, ...], groups: Sequence[tuple[Run, ...]]) -> str:
    """The experiment; with what differs where several groups are of the same one."""
    experiment = _experiment(group)
    seeds = f" ({len(group)} runs)" if len(group) > 1 else ""
    twins = [other for other in groups if _experiment(other) == experiment]
    if len(twins) == 1:
        return f"{experiment}{seeds}"
    own, differing = settings(group[0].config), differences([settings(other[0].config) for other in twins])
    named = [key for key in differing if key in own and not key.startswith("trainer.callbacks")]
    if 0 < len(named) <= _MOST_NAMED:
        return f"{experiment}: {', '.join(_short(key, own[key]) for key in named)}{seeds}"
    return f"{', '.join(run.name for run in group[:2])}{seeds}"


def _experiment(group: Sequence[Run]) -> str:
    """The experiment; where every seed has been named (`name_seed0`, `name_seed1`) what the names have in common."""
    names = [run.experiment for run in group]
    if len(set(names)) == 1:
        return names[0]
    common = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return re.sub(r"[_-]?(seed)?[_-]?$", "", "".join(letters[0] for letters in common)) or names[0]


def _short(key: str, value: str) -> str:
    name = key.removesuffix(".class_path").rsplit(".", 1)[-1]
    return f"{name} {value.rsplit('.', 1)[-1] if key.endswith('class_path') else value.rsplit('/', 1)[-1]}"
