"""Guesses which shipped format a row has, for the error message when the chosen one does not fit."""

from __future__ import annotations

from collections.abc import Mapping

_COLUMNS = (
    ("sharegpt", {"conversations"}),
    ("kto", {"messages", "label"}),
    ("messages", {"messages"}),
    ("alpaca", {"instruction"}),
    ("kto", {"prompt", "completion", "label"}),
    ("columns", {"prompt", "chosen", "rejected"}),
    ("completions", {"prompt", "completion"}),
)
"""Short name -> columns that rows of the format have, the most telling first."""
_FIRST_TURN = "\n\nHuman:"


def likely_format(row: Mapping[str, object]) -> str:
    """Short name of a format (`--data.format`) whose columns the row has; empty where there is none."""
    if str(row.get("chosen", "")).startswith(_FIRST_TURN) and "prompt" not in row:
        return "hh"
    return next((name for name, columns in _COLUMNS if columns <= row.keys()), "")
