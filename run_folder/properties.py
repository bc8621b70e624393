"""Reads since when a run shows a property, from what `PropertyAlarm` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FELL = ("degradation/bank/displaced", "degradation/displaced")
"""Share of the pairs whose chosen answer fell: on the bank, or else in a step's batch. The first that was measured is told."""

_AT_THE_END, _BEFORE = "shows from step", "showed from step"


@dataclass(frozen=True)
class Shown:
    """One property that a run shows, or showed."""

    since: int
    """The first step of the readings in a row that the notice was given for."""
    is_over: bool
    """Whether it no longer showed at the end."""

    def said(self) -> str:
        """`since step 20`, or `from step 20, no longer at the end`."""
        return f"from step {self.since}, no longer at the end" if self.is_over else f"since step {self.since}"


def verdict_on(shown: Shown) -> str:
    """What `judged.jsonl` says of the property."""
    return f"{_BEFORE} {shown.since}, no longer at the end" if shown.is_over else f"{_AT_THE_END} {shown.since}"


def says_it_showed(verdict: str) -> bool:
    """Whether a verdict of `judged.jsonl` is of a property that a notice was given for."""
    # As runs of earlier versions have it.
    return verdict.startswith((_AT_THE_END, _BEFORE, "fired at step"))


def shown_properties(alarms: Sequence[Mapping[str, Any]], judged: Mapping[str, str]) -> dict[str, Shown]:
    """Property -> since when, in the order in which they were noticed.

    Args:
        alarms: rows of `alarms.jsonl`; one without a level is a notice.
        judged: verdicts of the last row of `judged.jsonl`; none where the run did not end.
    """
    notices = [row for row in alarms if row.get("level") != "warning"]
    is_over = {name: verdict.startswith(_BEFORE) for name, verdict in judged.items()}
    return {
        name: Shown(row.get("since", row["step"]), is_over.get(name, False))
        for row in notices
        for name in [str(row.get("property"))]
    }
