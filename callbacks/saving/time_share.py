"""Keeps the time that checkpoints take within a share of the run's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

SHORT = 2.0
"""Seconds. A shorter save is not put off: what it takes is lost among the steps."""


class TimeShare:
    """Whether one more save keeps all of them within a share of the time since training began.

    With n saves of d seconds each in t seconds the next one is due when (n + 1) d <= share * t. The first is due at once, for
    nobody knows yet what it takes.

    Args:
        share: in (0, 1); None for every save that is asked for.
    """

    def __init__(self, share: float | None) -> None:
        self.share = share
        self._began = monotonic()
        self._spent = 0.0
        self.last = 0.0
        """Seconds of the last save."""

    def begin(self) -> None:
        """Training begins now."""
        self._began, self._spent = monotonic(), 0.0

    @property
    def is_due(self) -> bool:
        """Whether a save may be made now."""
        return self.share is None or self.last < SHORT or self.wait <= 0

    @property
    def wait(self) -> float:
        """Seconds from now until the next save is due, by what the last one took."""
        return 0.0 if self.share is None else (self._spent + self.last) / self.share - (monotonic() - self._began)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time a save."""
        began = monotonic()
        yield
        self.last = monotonic() - began
        self._spent += self.last
