"""Makes the runs of a study that are missing, one after another in this process."""

from __future__ import annotations

import contextlib
import importlib
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text
from typing_extensions import override

from command_line.failures import told
from studies.study import ROOT, Cell
from studies.timing import expected_seconds, note_seconds, total

OUTPUT = "output.txt"
"""What a run printed, beside its folder."""


class TimeLeft(ProgressColumn):
    """What the runs that are missing are expected to take, less what the present one has taken."""

    @override
    def render(self, task: Task) -> Text:
        seconds: list[float | None] = task.fields["left"]
        if not seconds or None in seconds:
            return Text("time left unknown" if seconds else "")
        known = [value for value in seconds if value is not None]
        spent = min(time.monotonic() - task.fields["since"], known[0])
        return Text(f"{total([sum(known) - spent])} left")


def make(cells: Sequence[Cell]) -> list[str]:
    """Make what is missing of these runs; what a killed run left is made anew, for rows are appended.

    A run in this process finds the models and the reference's log-probs that an earlier one has cached.

    Returns:
        A line for each run that failed. The others were made all the same.

    Raises:
        SystemExit: when a signal has stopped a run: the study stops with it.
    """
    missing = [cell for cell in cells if not cell.is_complete]
    if missing and missing[0].study.prepare is not None:
        importlib.import_module(missing[0].study.prepare).prepare(missing[0].study)
    failures: list[str] = []
    # Lines above the bar go where the bar goes, not into the file that holds what a run prints.
    console = Console(file=sys.__stderr__)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    with contextlib.chdir(ROOT), Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=len(cells), completed=len(cells) - len(missing), left=[], since=0.0)
        for number, cell in enumerate(missing):
            left = expected_seconds(cell.study, missing[number:])
            bar.update(task, description=cell.name, left=left, since=time.monotonic())
            is_needed = cell.is_needed
            said = _make_one(cell) if is_needed else f"{cell.name}: not made, because the page does not read it"
            bar.console.print(said, markup=False, highlight=False)
            failures += [said] if is_needed and not cell.is_complete else []
            bar.update(task, advance=1, left=[])
    return failures


def _make_one(cell: Cell) -> str:
    """Make a run; returns a line that says how it went."""
    incomplete = [other.name for other in cell.needs() if not other.is_complete]
    if incomplete:
        return f"{cell.name}: not made, because it starts from {', '.join(incomplete)}, which is not complete."
    shutil.rmtree(cell.folder, ignore_errors=True)
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    output = cell.folder.parent / OUTPUT
    start = time.monotonic()
    try:
        _train(cell.command(), output)
    except SystemExit as leaving:
        # 2: options that cannot be read. Others come from signals.
        if leaving.code != 2:
            raise
        return f"{cell.name}: failed, its options cannot be read; see {output}"
    except Exception as error:
        return f"{cell.name}: failed. {told(error)}"
    if not cell.is_complete:
        return f"{cell.name}: ended, but left no {cell.study.complete}; see {output}"
    seconds = time.monotonic() - start
    note_seconds(cell, seconds)
    return f"{cell.name}: {total([seconds])}"


def _train(command: Sequence[str], output: Path) -> None:
    # Not above: torch and Lightning take seconds, and a list of studies needs neither.
    from train import main as train

    with output.open("w", encoding="utf-8") as file, _quiet(), contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        print("python train.py", *command, flush=True)
        train(list(command))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning says about every run: hundreds of runs would say the same."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
