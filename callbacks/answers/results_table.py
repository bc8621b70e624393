"""Judges the answers to a task's test problems; prints and logs the paper's table row with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from callbacks.answers.judging import judge_groups, judge_of
from callbacks.mathematics.bootstrap import bootstrap_interval
from datamodules.contracts.prompts import PromptBatch, TaskPrompt
from datamodules.contracts.ranges import require_at_least
from datamodules.contracts.stores import TaskStore, data_of, require
from judges.base import Judge, Verdict
from lightning_modules.contracts import HasPolicy
from lightning_modules.processes.ranks import in_order
from run_folder.files import append_row, run_folder
from run_folder.rows import ANSWERS

ALL = "all"
"""The line over sets that are joined: every problem counts once, so that it is weighted by size."""


@dataclass(frozen=True)
class Outcome:
    """A test problem, answered and judged."""

    subset: str
    values: Mapping[str, float]
    """Column -> value, the mean over the problem's responses; a column that does not apply to it is missing."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    subset: str
    column: str
    mean: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""
    count: int
    """Problems that the column applies to."""


def table_cells(outcomes: Sequence[Outcome], *, level: float, num_resamples: int, seed: int) -> list[Cell]:
    """Every cell: a line for each set, in alphabetical order, and where there are several one for all, weighted by size.

    Intervals are percentile bootstrap ones over problems, within each set for the line over all.
    """
    subsets = sorted({outcome.subset for outcome in outcomes})
    columns = dict.fromkeys(column for outcome in outcomes for column in outcome.values)
    lines = {subset: [subset] for subset in subsets} | ({ALL: subsets} if len(subsets) > 1 else {})
    cells = []
    for line, members in lines.items():
        for column in columns:
            values = [_values(outcomes, subset, column) for subset in members]
            strata = [part for part in values if len(part)]
            if strata:
                low, high = bootstrap_interval(strata, level=level, num_resamples=num_resamples, seed=seed)
                together = np.concatenate(strata)
                cells.append(Cell(line, column, float(together.mean()), low, high, len(together)))
    return cells


def _values(outcomes: Sequence[Outcome], subset: str, column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([outcome.values[column] for outcome in outcomes if outcome.subset == subset and column in outcome.values])


class ResultsTable(Callback):
    """`train.py test` with a task: the paper's table row for it, whichever the judge's columns are (`Judge.results`).

    Maths: `five_points`, `four_and_five_points`, `accuracy`. Poems: the five dimensions. Slogans: `word_count`, `content`.
    Metrics: `test/<set>/<column>`, the mean; with its interval and count they are also rows of `<run>/diagnostics/test.jsonl`.
    What was answered, with each verdict and its reason, is in `<run>/diagnostics/test_responses.jsonl`.

    Args:
        judge: scores the responses; null takes the judge of the data's task. Where there is none either, the answers are kept and
            no table is made.
        level: of the bootstrap intervals, in (0, 1).
        num_resamples: of the problems, for each interval.
        seed: of the resampling.
    """

    def __init__(self, judge: Judge | None = None, level: float = 0.95, num_resamples: int = 2000, seed: int = 0) -> None:
        require_at_least(1, num_resamples=num_resamples)
        require_at_least(0, seed=seed)
        if not 0 < level < 1:
            raise ValueError(f"expected level in (0, 1), got {level}. 0.95 is usual.")
        self.judge = judge
        self.level = level
        self.num_resamples = num_resamples
        self.seed = seed
        self._outcomes: list[list[Outcome]] = []
        """Of each batch."""
        self._rows: list[list[dict[str, Any]]] = []
        """Of each batch."""
        self._judge = judge

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._outcomes, self._rows = [], []
        self._judge = judge_of(trainer, self.judge)

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not isinstance(batch, PromptBatch):
            return
        data = require(data_of(trainer), TaskStore)
        policy = require(pl_module, HasPolicy).policy
        groups = [
            [data.tokenizer.decode(policy.without_end(ids, batch.eos_token_id)) for ids in group]
            for group in outputs["completions"]
        ]
        verdicts = judge_groups(self._judge, [prompt.item for prompt in batch.prompts], groups)
        outcomes: list[Outcome] = []
        rows: list[dict[str, Any]] = []
        for prompt, texts, given in zip(batch.prompts, groups, verdicts, strict=True):
            assert data.task is not None, "its problems are answered"
            subset = prompt.item.subset or data.task.name
            if self._judge is not None:
                results = [self._judge.results(verdict) for verdict in given if verdict is not None]
                outcomes.append(Outcome(subset, _mean(results)))
            rows += [_row(subset, prompt, text, verdict) for text, verdict in zip(texts, given, strict=True)]
        self._outcomes.append(outcomes)
        self._rows.append(rows)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        outcomes, rows = in_order(self._outcomes), in_order(self._rows)
        if not rows or not trainer.is_global_zero:
            return
        for row in rows:
            append_row(trainer, ANSWERS, row)
        if self._judge is None:
            rank_zero_info(
                f"{len(rows)} answers are in {run_folder(trainer)}/diagnostics/{ANSWERS}.jsonl, not judged: the task has "
                "no judge (data.task.judge names one)."
            )
            return
        cells = table_cells(outcomes, level=self.level, num_resamples=self.num_resamples, seed=self.seed)
        for logger in trainer.loggers:
            logger.log_metrics({f"test/{cell.subset}/{cell.column}": cell.mean for cell in cells}, step=trainer.global_step)
        for cell in cells:
            append_row(trainer, "test", {"step": trainer.global_step, **vars(cell)})
        Console().print(results_table(cells, self._judge, self.level))


def results_table(cells: Sequence[Cell], judge: Judge, level: float) -> Table:
    """The cells as a table, shares in percent."""
    table = Table(title=f"Test problems, judged by {judge.name} {judge.version}", title_justify="left", caption_justify="left")
    table.caption = f"Shares in percent, greedy or as test_decoding says; {level:.0%} bootstrap intervals over problems."
    columns = list(dict.fromkeys(cell.column for cell in cells))
    for header in ("", "problems", *columns):
        table.add_column(header.replace("_", " "), justify="left" if not header else "right")
    for subset in dict.fromkeys(cell.subset for cell in cells):
        line = {cell.column: cell for cell in cells if cell.subset == subset}
        number = max(cell.count for cell in line.values())
        table.add_row(subset, str(number), *(_describe(line[column]) if column in line else "" for column in columns))
    return table


def _describe(cell: Cell) -> str:
    # A score has the judge's own scale; every other column is a share.
    factor, digits = (1, 3) if cell.column == "score" else (100, 1)
    mean, low, high = (factor * value for value in (cell.mean, cell.low, cell.high))
    return f"{mean:.{digits}f}\n[{low:.{digits}f}, {high:.{digits}f}]"


def _mean(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    columns = dict.fromkeys(column for result in results for column in result)
    return {column: float(np.mean([result[column] for result in results if column in result])) for column in columns}


def _row(subset: str, prompt: TaskPrompt, text: str, verdict: Verdict | None) -> dict[str, Any]:
    judged = {} if verdict is None else {"score": verdict.score, "reason": verdict.reason}
    return {"set": subset, "prompt": prompt.item.prompt, "response": text, **judged, "answer": prompt.item.answer}
