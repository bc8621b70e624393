"""Paces requests: rate limits, and a common wait when the server asks for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """Spreads requests evenly over time. One object is shared by all requests to a server.

    Args:
        requests_per_minute: At most so many starts; None for no limit.
        tokens_per_minute: At most so many tokens, counted when replies arrive; None for no limit.
        clock: Seconds since some fixed moment.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._token_interval = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._next_start = 0.0
        self._paid_until = 0.0
        self._paused_until = 0.0

    def reserve(self) -> float:
        """Take the next free slot; returns the seconds to wait for it."""
        now = self._clock()
        start = max(now, self._next_start, self._paid_until, self._paused_until)
        self._next_start = start + self._interval
        return start - now

    async def wait(self) -> None:
        """Sleep until a request may start."""
        delay = self.reserve()
        while delay > 0:
            await asyncio.sleep(delay)
            delay = max(0.0, self._paused_until - self._clock())  # the server may have asked for a pause meanwhile

    def count(self, tokens: int) -> None:
        """Account for the tokens of a reply."""
        self._paid_until = max(self._clock(), self._paid_until) + tokens * self._token_interval

    def pause(self, seconds: float) -> None:
        """Start no request before `seconds` have passed."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)
