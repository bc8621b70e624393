"""Refuses numbers out of range when the object that takes them is made, before the run starts."""

from __future__ import annotations

import math


def require_at_least(minimum: int, **numbers: float | None) -> None:
    """Refuse numbers below `minimum`, NaN and infinity; None is no number and passes.

    Args:
        minimum: the smallest that will do.
        **numbers: values by the name of their field.

    Raises:
        ValueError: if one is out of range; names the field.
    """
    for name, value in numbers.items():
        if value is not None and not minimum <= value < math.inf:
            bound = f"finite and >= {minimum}" if value == math.inf else f">= {minimum}"
            raise ValueError(f"expected {name} {bound}, got {value}. Change it in the config.")
