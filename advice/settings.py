"""A run's config as `train.py` saves it: values by dotted path, as the command line names them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pydoc import locate
from typing import Any

Config = dict[str, Any]
"""What `config.yaml` of a run holds, or a part of it."""

MISSING = object()
"""Stands for a value that a config does not have."""


def value_at(config: Config, path: str) -> Any:  # noqa: ANN401
    """The value at `model.optimizer.lr`, or MISSING; `init_args` may be left out, as on the command line."""
    node: Any = config
    for key in path.split("."):
        if isinstance(node, dict) and key not in node and isinstance(node.get("init_args"), dict):
            node = node["init_args"]
        if not isinstance(node, dict) or key not in node:
            return MISSING
        node = node[key]
    return node


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy in which the values stand at their paths, in the order given; a new argument of a class goes to its `init_args`."""
    changed = deepcopy(config)
    for path, value in values.items():
        *parents, last = path.split(".")
        node: Config = changed
        for key in parents:
            node = _part(_within(node, key), key)
        _within(node, last)[last] = deepcopy(value)
    return changed


def class_of(part: object) -> type | None:
    """The class that a part of a config names; None where it names none that can be found."""
    path = part.get("class_path") if isinstance(part, dict) else part
    found = locate(path) if isinstance(path, str) else None
    return found if isinstance(found, type) else None


def callbacks_of(config: Config) -> list[Config]:
    """The callbacks, each with its `class_path`."""
    given = config.get("trainer", {}).get("callbacks") or []
    listed = given if isinstance(given, list) else [given]
    return [one if isinstance(one, dict) else {"class_path": one} for one in listed]


def _part(node: Config, key: str) -> Config:
    """The part of that name, made where the default stands."""
    if node.get(key) is None:
        node[key] = {}
    part: Config = node[key]
    return part


def _within(node: Config, key: str) -> Config:
    """Where the key belongs: beside a class's path, or among its arguments."""
    is_argument = ("class_path" in node or "init_args" in node) and key not in ("class_path", "init_args")
    arguments: Config = node.setdefault("init_args", {}) if is_argument else node
    return arguments
