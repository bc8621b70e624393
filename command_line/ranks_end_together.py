"""Ends a rank when the process that started it is gone; it would otherwise wait for its peers, up to half an hour."""

from __future__ import annotations

import os
import threading
import time

_NAME = "ends-with-its-parent"
_SECONDS = 2.0
"""Between two looks."""


def end_with_parent() -> None:
    """Watch the process that started this one, where it is a rank that a launcher started; for any other do nothing.

    Lightning's launcher ends the first process of a node when another dies, torchrun and SLURM end all. Nobody else looks after the
    others where the first one is killed.
    """
    is_started = "LOCAL_RANK" in os.environ
    if is_started and not any(thread.name == _NAME for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(os.getppid(),), name=_NAME, daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os.write(2, b"\nThe process that started this one has ended, and so does this one.\n")
    # Not an exception: the main thread may wait in a collective, where none arrives.
    os._exit(1)
