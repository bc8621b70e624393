"""Lists checkpoints that appear while another trainer runs, each once, when it is complete and no longer changes."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from lightning_modules.models.files.checkpoint_folders import checkpoints_in, fault_of

Look = tuple[tuple[str, int, int], ...]
"""Name, bytes and time of every file of a checkpoint."""


class Watch:
    """Looks at folders again and again.

    Args:
        folders: of runs, or checkpoints.
        seconds: between two looks. A checkpoint counts as written when nothing in it changed from one to the next.
        until_idle: seconds without a new one after which it ends; inf waits for Ctrl-C.
        seen: checkpoints that are not to be named again.
        is_over: whether the trainer has ended: what is there then is the last to be named.
    """

    def __init__(
        self,
        folders: Sequence[str],
        *,
        seconds: float = 2.0,
        until_idle: float = math.inf,
        seen: Sequence[str] = (),
        is_over: Callable[[], bool] | None = None,
    ) -> None:
        self._folders = folders
        self._seconds = seconds
        self._until_idle = until_idle
        self._seen = set(seen)
        self._is_over = is_over or bool
        self._looks: dict[str, Look] = {}

    def look(self) -> list[str]:
        """Those that are whole, have not changed since the last look and have not been named, in order."""
        looks = {path: _look(path) for path in self._there() if path not in self._seen}
        ready = [path for path, look in looks.items() if self._looks.get(path) == look and not fault_of(path)]
        self._looks = looks
        self._seen |= set(ready)
        return ready

    def wait_for_first(self) -> list[str]:
        """The checkpoints that are there, or the first that come.

        Raises:
            ValueError: if none came in time.
        """
        for ready in self._rounds():
            if ready:
                return ready
        waited = "before its trainer ended" if self._is_over() else f"for {self._until_idle:g} s"
        raise ValueError(f"expected a checkpoint in {', '.join(self._folders)}, got none {waited}.{self._faults()}")

    def later(self) -> Iterator[str]:
        """One after the other, as they come."""
        for ready in self._rounds():
            yield from ready

    def _rounds(self) -> Iterator[list[str]]:
        since = time.monotonic()
        was_over = False
        while True:
            is_over = self._is_over()
            ready = self.look()
            if ready:
                yield ready
                since = time.monotonic()
            # What was whole when it ended was there at the last look, and has been named at this one.
            elif was_over or time.monotonic() - since > self._until_idle:
                return
            was_over = is_over
            if not ready:
                time.sleep(self._seconds)

    def _faults(self) -> str:
        """What is wrong with those that are there, if any."""
        return "".join(f" {path}: {fault}." for path in self._there()[:3] if (fault := fault_of(path)))

    def _there(self) -> list[str]:
        found = []
        for folder in self._folders:
            try:
                found += checkpoints_in(folder)
            # Nothing is there yet, or what was there is being removed by its trainer.
            except (OSError, ValueError):
                continue
        return [path for path in found if Path(path).is_dir()]


def _look(path: str) -> Look:
    files = []
    for file in sorted(Path(path).iterdir()):
        try:
            if file.is_file():
                stat = file.stat()
                files.append((file.name, stat.st_size, stat.st_mtime_ns))
        except OSError:
            continue
    return tuple(files)


def is_input_closed() -> bool:
    """Whether the program that started this process has closed its standard input, or has ended."""
    return _closing().is_set()


@cache
def _closing() -> threading.Event:
    closed = threading.Event()

    def wait() -> None:
        try:
            # Not by sys.stdin, whose lock a thread that waits would hold when the process ends: Python then aborts.
            while os.read(0, 1024):
                pass
        finally:
            closed.set()

    threading.Thread(target=wait, daemon=True).start()
    return closed
