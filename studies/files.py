"""Reads a study from `studies/<name>.yaml`, and reports what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from studies.study import Complete, Level, Study

FOLDER = Path(__file__).parent
_GIVEN = ("title", "experiment", "options", "grid", "skip", "complete", "quick", "page", "prepare", "needed")


def study_names() -> list[str]:
    """Every study there is, by its name on the command line: `toy`, `paper/methods`."""
    files = (path for path in FOLDER.rglob("*.yaml") if path.parent.name != "trainers")
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in files)


def load_study(name: str, *, is_quick: bool = False) -> Study:
    """The study of this name.

    Raises:
        ValueError: if there is none, or its file is no study.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in study_names():
        raise ValueError(f"expected a study, got {name!r}. There are {', '.join(study_names())}.")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    missing = {"title", "grid", "complete"} - set(content)
    # A page that measures something else than runs has neither.
    if missing and not ("title" in content and missing == {"grid", "complete"}):
        raise ValueError(f"expected {', '.join(sorted(missing))} in {path}.")
    grid = {str(factor): _levels(str(factor), given, path) for factor, given in content.get("grid", {}).items()}
    study = Study(
        name=name,
        title=content["title"],
        grid=grid,
        complete=Complete(**content.get("complete", {})),
        experiment=content.get("experiment"),
        options=_options(content.get("options")),
        skip=tuple(content.get("skip") or ()),
        quick={str(factor): _options(names) for factor, names in (content.get("quick") or {}).items()},
        page=content.get("page"),
        prepare=content.get("prepare"),
        needed=content.get("needed"),
        settings={key: value for key, value in content.items() if key not in _GIVEN},
        is_quick=is_quick,
    )
    _check(study)
    return study


def _levels(factor: str, given: Any, path: Path) -> dict[str, Level]:  # noqa: ANN401
    """`{level: options}`, or `{levels: [names], options: those that all share}`, in which `{factor}` stands for the name."""
    if isinstance(given, Mapping) and set(given) == {"levels", "options"}:
        shared = _options(given["options"])
        given = {name: [option.replace(f"{{{factor}}}", str(name)) for option in shared] for name in given["levels"]}
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"expected levels with their options for the factor {factor} in {path}, got {given!r}.")
    return {str(name): _level(str(name), level) for name, level in given.items()}


def _level(name: str, given: Any) -> Level:  # noqa: ANN401
    if isinstance(given, Mapping):
        return Level(name, **{**given, "options": _options(given.get("options"))})
    return Level(name, _options(given))


def _options(given: Sequence[Any] | None) -> tuple[str, ...]:
    return tuple(map(_word, given or ()))


def _word(value: Any) -> str:  # noqa: ANN401
    """As the command line has it: YAML reads `true` and `null` as values, and a part of a config as a mapping."""
    if isinstance(value, Mapping):
        return json.dumps(value)
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)


def _check(study: Study) -> None:
    """Levels that are named exist, and no two runs share a folder."""
    for skipped in study.skip:
        for factor, names in skipped.items():
            for name in names if isinstance(names, list) else [names]:
                study.require_level(factor, str(name), "skip")
    for factor, kept in study.quick.items():
        for name in kept:
            study.require_level(factor, name, "quick")
    folders = [cell.name for cell in study.cells]
    twice = {name for name in folders if folders.count(name) > 1}
    if twice:
        raise ValueError(f"expected runs with different names in the study {study.name}, got {', '.join(sorted(twice))} twice.")
    for cell in study.cells:
        cell.needs()
