"""Checkpoints that appear while another trainer runs: each once, when it is whole and no longer written to."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_modules.models.checkpoint_folders import checkpoints_in, fault_of

Look = tuple[tuple[str, int, int], ...]
"""Name, bytes and time of every file of a checkpoint."""


class Watch:
    """Looks at folders again and again.

    Args:
        folders: of runs, or checkpoints.
        seconds: between two looks. A checkpoint counts as written when nothing in it changed from one to the next.
        until_idle: seconds without a new one after which it ends; inf waits for Ctrl-C.
        seen: checkpoints that are not to be named again.
    """

    def __init__(
        self, folders: Sequence[str], *, seconds: float = 2.0, until_idle: float = math.inf, seen: Sequence[str] = ()
    ) -> None:
        self._folders = folders
        self._seconds = seconds
        self._until_idle = until_idle
        self._seen = set(seen)
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
        raise ValueError(f"expected a checkpoint in {', '.join(self._folders)}, got none for {self._until_idle:g} s.")

    def later(self) -> Iterator[str]:
        """One after the other, as they come."""
        for ready in self._rounds():
            yield from ready

    def _rounds(self) -> Iterator[list[str]]:
        since = time.monotonic()
        while True:
            ready = self.look()
            if ready:
                yield ready
                since = time.monotonic()
            elif time.monotonic() - since > self._until_idle:
                return
            else:
                time.sleep(self._seconds)

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
