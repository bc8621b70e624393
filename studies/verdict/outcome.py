"""What becomes of a run, answer by answer: what its label is made of, and what a few judged samples would have told."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.diagnostics.accuracy import AccuracyMonitor
from callbacks.readings import Values
from judges.base import Judge
from run_folder.files import append_row
from run_folder.rows import read_rows
from studies.study import ROOT, Cell

OUTCOME_ROWS, END_ROWS = "outcome", "ended"


def accuracies(cell: Cell, problems: slice) -> list[float]:
    """Share of some of the held-out problems that a run solves, at each reading of an `OutcomeMonitor`."""
    return [mean(row["task/accuracy"][problems]) for row in read_rows(ROOT / cell.folder, OUTCOME_ROWS)]


class OutcomeMonitor(AccuracyMonitor):
    """`AccuracyMonitor` that keeps each problem's results in rows `outcome`, and says in rows `ended` that the run is whole.

    Args:
        start: a file that keeps the answers before training: they are the same in every run of a family, and are judged once.
        judge: scores a response.
        every_n_steps: cadence in optimizer steps.
        num_problems: of the held-out problems the first so many.
        max_new_tokens: tokens of a response at the most.
    """

    def __init__(self, start: str, judge: Judge, every_n_steps: int, num_problems: int, max_new_tokens: int) -> None:
        super().__init__(judge, every_n_steps, num_problems, max_new_tokens)
        self._start = Path(start)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._start.is_file():
            self.write_row(trainer, OUTCOME_ROWS, json.loads(self._start.read_text(encoding="utf-8")))
        else:
            super().on_train_start(trainer, pl_module)

    @override
    def measure_policy(self, trainer: Trainer, pl_module: LightningModule) -> list[Values]:
        measured = super().measure_policy(trainer, pl_module)
        scores = {name: value.tolist() for name, value in measured[0].items() if isinstance(value, Tensor)}
        row = {"step": trainer.global_step, **scores}
        self.write_row(trainer, OUTCOME_ROWS, row)
        if trainer.global_step == 0:
            self._start.parent.mkdir(parents=True, exist_ok=True)
            self._start.write_text(json.dumps(row), encoding="utf-8")
        return measured

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        append_row(trainer, END_ROWS, {"step": trainer.global_step})


class EndMarker(Callback):
    """Says in rows `ended` that a run is whole, where another monitor measures what became of it."""

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        append_row(trainer, END_ROWS, {"step": trainer.global_step})
