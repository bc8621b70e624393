"""Seeded damage to configs: values of other types and sizes, keys that are missing, misspelt or in another place."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    2**40,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "text",
    "~nobody_here/x",
    "a\0b",
    "x" * 3000,
    "*.jsonl",
    "os.system",
    [],
    [1, "a"],
    {},
    {"class_path": "datamodules.formats.columns.PairColumns"},
)

Place = tuple[Any, Any]
"""(a mapping or a list of the config, a key or index in it)."""


def places(config: object) -> Iterator[Place]:
    """Every value within a config."""
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in list(pairs):
        yield config, key
        yield from places(value)


def mutated(config: dict[str, Any], parts: tuple[str, ...], draw: random.Random) -> tuple[dict[str, Any], str]:
    """A copy with one value changed, and what was done.

    Args:
        config: stays as it is.
        parts: the top-level keys to change values in.
        draw: random numbers.
    """
    changed = copy.deepcopy(config)
    holder, key = draw.choice([place for part in parts for place in places(changed[part])])
    kind = draw.choice(("replace", "replace", "replace", "drop", "misspell", "nest"))
    if kind == "drop":
        del holder[key]
    elif kind == "misspell" and isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)
    elif kind == "nest":
        holder[key] = {"init_args": holder[key]}
    else:
        holder[key] = draw.choice(VALUES)
        kind = f"{holder[key]!r:.40} for"
    return changed, f"{kind} {key!r}"
