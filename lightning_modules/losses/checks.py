"""Checks on the hyperparameters of losses, worded for the person who wrote the config."""

from __future__ import annotations

import math
from collections.abc import Sequence


def require(valid: bool, domain: str, value: float) -> None:
    """Refuse a hyperparameter outside its domain.

    Args:
        valid: whether the value is in the domain. NaN fails every comparison, so write `0 < x < 1`, never `not x <= 0`.
        domain: the expectation in words, naming the field: "beta > 0".
        value: what was given.

    Raises:
        ValueError: if not valid.
    """
    if not valid:
        raise ValueError(f"expected {domain}, got {value}. Change it in the init_args of the loss.")


def require_positive(**values: float) -> None:
    """Refuse named values that are not finite and > 0.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in values.items():
        require(0 < value < math.inf, f"finite {name} > 0", value)


def require_non_negative(**values: float) -> None:
    """Refuse named values that are not finite and >= 0.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in values.items():
        require(0 <= value < math.inf, f"finite {name} >= 0", value)


def require_scores(gaps: Sequence[float | None], loss: str) -> None:
    """Refuse pairs whose best and worst have no judge score.

    Raises:
        ValueError: if there are such pairs.
    """
    missing = sum(gap is None for gap in gaps)
    if missing:
        raise ValueError(
            f"expected judge scores of every completion, by which {loss} orders them, got {missing} of {len(gaps)} prompts "
            "without. Use data of scored responses (data.format scored), or a loss of pairs."
        )
