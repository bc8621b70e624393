"""Decides symbolic equality of two answers in a separate process, which is ended when it takes too long."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from judges.base import JudgeError

MAX_CHARACTERS = 2000  # of one answer; longer ones are never compared symbolically
START_LIMIT = 120.0  # seconds for the imports of a fresh process on a busy machine


class SymbolicComparer:
    """Decides equality with math-verify (sympy) in worker processes, safe to call from any thread and after a fork.

    math-verify's own timeouts use `signal.alarm`, which only works on the main thread, and no signal stops C code that computes
    a huge power. A process can always be ended, so a hostile expression costs `timeout` seconds of its caller's time.

    Args:
        timeout: Seconds one comparison may take once its worker is up.
        workers: Processes kept, hence comparisons that may run at once; started when first needed.

    Raises:
        ValueError: if either is not positive.
    """

    def __init__(self, timeout: float = 5.0, workers: int = 1) -> None:
        if not 0 < timeout < math.inf or workers < 1:
            raise ValueError(f"expected timeout > 0 and workers >= 1, got {timeout} and {workers}. Give seconds and a count.")
        self.timeout = timeout
        self.workers = workers
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._free.put(None)  # None: a place for a worker that is not running

    def is_same(self, gold: str, candidate: str) -> bool | None:
        """Whether the two are equal; None if that could not be decided in time (or at all, or without too much memory).

        Args:
            gold: A LaTeX or plain expression.
            candidate: Another one.
        """
        if max(len(gold), len(candidate)) > MAX_CHARACTERS:
            return None
        with self._borrow() as worker:
            return worker.ask(gold, candidate, self.timeout)

    @contextlib.contextmanager
    def _borrow(self) -> Iterator[_Worker]:
        if self._owner != os.getpid():
            self._reset()  # in a forked child the pipes belong to the parent
        free = self._free
        worker = free.get()
        if worker is None or not worker.is_alive():
            worker = _Worker()
        try:
            yield worker
        finally:
            free.put(worker if worker.is_alive() else worker.successor or _Worker())

    def close(self) -> None:
        """End the worker processes; a later comparison starts new ones."""
        if self._owner == os.getpid():
            stopped = [self._free.get() for _ in range(self.workers)]
            for worker in filter(None, stopped):
                worker.stop()
        self._reset()

    def __getstate__(self) -> dict[str, float]:
        return {"timeout": self.timeout, "workers": self.workers}

    def __setstate__(self, state: dict[str, float]) -> None:
        self.__init__(state["timeout"], int(state["workers"]))  # type: ignore[misc]


class _Worker:
    """One process and the thread that reads its replies (a pipe cannot be read with a deadline on every system)."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdin is not None, "opened with pipes"
        assert self._process.stdout is not None, "opened with pipes"
        self._requests = self._process.stdin
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._ready = False
        self.successor: _Worker | None = None
        """Takes over when this one has ended."""
        threading.Thread(target=_pass_on, args=(self._process.stdout, self._replies), daemon=True).start()
        # Runs when the worker is stopped, forgotten, or the program ends: no process outlives its use.
        self.stop = weakref.finalize(self, _end, self._process, self._requests)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, gold: str, candidate: str, timeout: float) -> bool | None:
        if not self._ready:
            self._wait_until_ready()
        try:
            self._requests.write(json.dumps([gold, candidate]) + "\n")
            self._requests.flush()
            reply = self._reply(timeout)
        except (queue.Empty, OSError):
            reply = None
        if reply is None:
            self.stop()
        return {"true": True, "false": False}.get(reply or "")

    def _reply(self, timeout: float) -> str | None:
        try:
            return self._replies.get(timeout=timeout / 2)
        except queue.Empty:
            # Most that take so long never end: the successor's imports fit into the other half, and nobody waits for them.
            self.successor = self.successor or _Worker()
            return self._replies.get(timeout=timeout / 2)

    def _wait_until_ready(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._ready = self._replies.get(timeout=START_LIMIT) == "ready"
        if not self._ready:
            self.stop()
            raise JudgeError(
                f"expected the comparison process to start within {START_LIMIT:.0f} s, got none. "
                f"Check that `{sys.executable} -c 'import math_verify'` works."
            )


def _pass_on(lines: IO[str], replies: queue.Queue[str | None]) -> None:
    with lines:
        for line in lines:
            replies.put(line.strip())
    replies.put(None)


def _end(process: subprocess.Popen[str], requests: IO[str]) -> None:
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):
        requests.close()
