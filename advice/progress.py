"""A progress bar over all forks, with the time left; it looks at what the forks write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from advice.forks import Forks
from advice.trial import OnTask, Task

_SECONDS = 0.5


@contextmanager
def shown_progress(forks: Forks, number: int, steps: int, console: Console) -> Iterator[OnTask]:
    """Show a bar while the forks go on.

    Args:
        forks: what is looked at.
        number: of remedies that train.
        steps: of a whole fork.
        console: where to.

    Yields:
        What is to be told of each stretch of a fork.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"))
    over, seen = threading.Event(), dict[str, int]()
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("starting", total=(1 + number) * steps)

        def look() -> None:
            while not over.wait(_SECONDS):
                first = forks.origin.step
                done = sum(min(max(forks.come_to(name) - first, 0), steps) for name in list(seen))
                progress.update(bar, completed=done)

        def on_task(task: Task) -> None:
            seen[task.name] = task.until
            progress.update(bar, description=task.name.replace("_", " "))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield on_task
            progress.update(bar, completed=(1 + number) * steps, description="done")
        finally:
            over.set()
            thread.join()
