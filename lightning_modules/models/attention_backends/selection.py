"""Chooses an attention backend for a model, tests it once, and logs the choice."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.models.attention_backends.base import AttentionBackend, AttentionCase, Refusal
from lightning_modules.models.attention_backends.flash_attention_2 import FLASH_ATTENTION_2
from lightning_modules.models.attention_backends.flash_attention_4 import FLASH_ATTENTION_4
from lightning_modules.models.attention_backends.per_segment import PER_SEGMENT
from lightning_modules.models.attention_backends.self_test import failure
from lightning_modules.models.attention_backends.torch_varlen import TORCH_VARLEN

BACKENDS = (FLASH_ATTENTION_4, TORCH_VARLEN, FLASH_ATTENTION_2, PER_SEGMENT)
"""Fastest first."""

ON_REQUEST_ONLY = frozenset({FLASH_ATTENTION_4.name})
"""Backends that "auto" passes over: betas, which may compile for minutes."""

RETRY_AFTER = 1000
"""Uses of a choice (one a layer) after which backends are asked again whose self-test ended in an error."""

_log = logging.getLogger(__name__)


@dataclass
class _Choice:
    backend: AttentionBackend
    uses_left: float
    """Infinite where nothing can change."""


class BackendSelector:
    """Picks a backend for every case that comes; remembers it, so that the hot path costs a dictionary look-up.

    Args:
        requested: name of a backend, or "auto" for the fastest that works.
        backends: what there is, fastest first; the last one must serve every case.
        announce: whether to log each choice.

    Raises:
        ValueError: if `requested` names no backend, or one that is not installed.
    """

    def __init__(self, requested: str = "auto", backends: Sequence[AttentionBackend] = BACKENDS, *, announce: bool = True) -> None:
        by_name = {backend.name: backend for backend in backends}
        if requested != "auto" and requested not in by_name:
            raise ValueError(f"expected attention to be auto or one of {', '.join(by_name)}, got {requested!r}.")
        if requested != "auto" and not by_name[requested].installed:
            raise ValueError(
                f"expected attention backend {requested} to be installed, {by_name[requested].module} was not found. "
                f"Install it with: {by_name[requested].install}"
            )
        self._requested, self._backends, self._announce = requested, tuple(backends), announce
        self._choices: dict[AttentionCase, _Choice] = {}

    def choose(self, case: AttentionCase) -> AttentionBackend:
        """The backend for `case`.

        Raises:
            ValueError: if a backend was asked for by name and cannot serve the case.
        """
        choice = self._choices.get(case)
        if choice is None or not choice.uses_left:
            choice = self._choices[case] = self._choose_by_name(case) if self._requested != "auto" else self._choose_fastest(case)
        choice.uses_left -= 1
        return choice.backend

    def _choose_by_name(self, case: AttentionCase) -> _Choice:
        backend = next(backend for backend in self._backends if backend.name == self._requested)
        if refusal := _refusal(backend, case):
            raise ValueError(
                f"expected attention backend {backend.name} to work for {_describe(case)}, but it {refusal.reason}. "
                "Use `attention: auto`."
            )
        self._say(backend, case, "asked for by name")
        return _Choice(backend, math.inf)

    def _choose_fastest(self, case: AttentionCase) -> _Choice:
        passed_over: list[str] = []
        uses = math.inf
        for backend in self._backends:
            if backend.name in ON_REQUEST_ONLY:
                continue
            if refusal := _refusal(backend, case):
                passed_over.append(f"{backend.name} {refusal.reason}")
                uses = uses if refusal.lasting else RETRY_AFTER
                continue
            self._say(backend, case, "; ".join(passed_over) or "the fastest there is")
            return _Choice(backend, uses)
        raise AssertionError("the last backend serves every case")

    def _say(self, backend: AttentionBackend, case: AttentionCase, reason: str) -> None:
        before = self._choices.get(case)
        if before is not None and before.backend is backend:
            return
        faster = self._backends[: self._backends.index(backend)]
        hints = [f"{b.name}: {b.install}" for b in faster if not b.installed and b.obstacle(case) is None]
        hint = f" Faster, once installed: {'; '.join(hints)}" if hints else ""
        if self._announce:
            _log.info("Packed attention for %s: %s (%s).%s", _describe(case), backend.name, reason, hint)


def _refusal(backend: AttentionBackend, case: AttentionCase) -> Refusal | None:
    if reason := backend.obstacle(case):
        return Refusal(reason)
    if not backend.installed:
        return Refusal("is not installed")
    return None if backend is PER_SEGMENT else failure(backend, case)


def _describe(case: AttentionCase) -> str:
    softcap = ", soft-cap" if case.softcap else ""
    return f"{case.device_type}, {str(case.dtype).removeprefix('torch.')}, head width {case.head_dim}{softcap}"
