"""Writes pairs in any usual form as the file that a diagnosis reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

Pairs = str | PathLike[str] | Iterable[Mapping[str, Any]]
"""A file, a folder or the name of a hub set; or rows: a list of mappings, a `datasets.Dataset`, a DataFrame."""


def pairs_file(pairs: Pairs, folder: Path) -> str:
    """Path of the pairs; rows are written to `<folder>/pairs.jsonl`.

    Raises:
        TypeError: if a row is no mapping.
    """
    if isinstance(pairs, str | PathLike):
        return str(pairs)
    # A DataFrame iterates over the names of its columns.
    rows = pairs.to_dict("records") if hasattr(pairs, "columns") and hasattr(pairs, "to_dict") else pairs
    lines = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"expected rows of columns and values, got {type(row).__name__}. Give a file, or a list of mappings.")
        lines.append(json.dumps(dict(row), ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder / "pairs.jsonl")
