"""Reads folders that `Dataset.save_to_disk` of the `datasets` library wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def saved_dataset_files(folder: Path, split: str) -> list[Path] | None:
    """The Arrow files of a saved data set, in order; None for a folder that is none.

    Args:
        folder: of a data set, or of a dictionary of data sets.
        split: which of a dictionary is meant.

    Raises:
        ValueError: if its list of files is damaged, lacks the split, or the rows are a selection that Arrow files do not hold.
    """
    if (folder / _SPLITS).is_file():
        splits = _read(folder / _SPLITS).get("splits")
        if not isinstance(splits, list) or split not in splits:
            raise ValueError(f"expected a split of the saved data set {folder}, one of {splits}, got {split!r}. Set `split`.")
        folder = folder / split
    if not (folder / _STATE).is_file():
        return None
    state = _read(folder / _STATE)
    if state.get("_indices_data_files"):
        raise ValueError(
            f"expected a saved data set without a selection of rows, got {folder}. Call flatten_indices() before saving."
        )
    try:
        files = [folder / Path(part["filename"]).name for part in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"expected the names of Arrow files in {folder / _STATE}, got none: {error!r}. Save the data set again."
        ) from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(
            f"expected the files that {folder / _STATE} names, got no {missing}. Fetch them, or save the data set again."
        )
    return files


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {file}, got: {error}. Save the data set again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected an object in {file}, got {type(content).__name__}. Save the data set again.")
    return content
