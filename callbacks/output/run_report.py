"""Writes the report of a run into the run's own folder when it has ended."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from typing_extensions import override

from callbacks.output.console import say
from run_folder.files import flush_loggers, run_folder
from run_folder.program import spelled

REPORT = "report.html"
"""Name of the page in a run's folder."""


class RunReport(Callback):
    """Writes `<run folder>/report.html` when a fit has ended: the page that `python report.py <run folder>` makes.

    It takes a few seconds, at the end alone. A page that cannot be made is named with its reason and leaves the run as it is. List
    it before `RunSummary`, which names the page.
    """

    def __init__(self) -> None:
        self._console = Console()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero or folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        flush_loggers(trainer)
        try:
            write_report(folder)
        # Whatever is wrong with a picture, the run is done and its weights are kept.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            say(self._console, f"No report was written ({reason}). To try again: {spelled(f'python report.py {folder}')}")


def write_report(folder: Path) -> None:
    """Write the page of a run folder into it.

    Raises:
        ValueError: if it is none, or holds no readings.
    """
    # Figures are loaded when they are drawn: a run need not wait for them at its start.
    from reports.page import report_page
    from reports.runs import load_run

    page = report_page([load_run(folder)])
    (folder / REPORT).write_text(page, encoding="utf-8")
