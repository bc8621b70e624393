"""The contract of a figure: how it is drawn, its meaning, and the callback that measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from reports.groups import Group
from reports.missing import HasNone, never


@dataclass(frozen=True)
class Plot:
    """One figure."""

    name: str
    """Name of its PNG file and of its place in the page."""
    title: str
    meaning: str
    """What it shows and how to read it, in a sentence or two."""
    needs: tuple[str, ...]
    """Metrics (or their beginnings, ending in `/`) without which a run is not in the figure."""
    callback: str
    """Class path of what measures them."""
    draw: Callable[[Sequence[Group]], Figure | None]
    """None where no group has what it takes."""
    is_optional: bool = False
    """Whether it is silently left out where no run has it (a figure of one kind of run)."""
    has_none: HasNone = never
    """Whether the objective of a group has nothing of it, so that no callback would measure it."""
    reads: str = ""
    """What it is about, in words, where some objectives have none of it."""

    def has(self, group: Group) -> bool:
        """Whether a group has measured what the figure needs."""
        return any(
            name == need or (need.endswith("/") and name.startswith(need)) for name in group.metrics() for need in self.needs
        )
