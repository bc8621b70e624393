"""What a warning could do with information that it does not have by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from callbacks.alarms.features import fall
from run_folder.rows import read_rows
from studies.readings import markdown_table
from studies.study import ROOT
from studies.verdict.evaluation import auc_of, rates, recall_at, warned
from studies.verdict.families import ANSWERED, JUDGED, Array, LabelledRun
from studies.verdict.fit import chosen, held_out, threshold_of
from studies.verdict.outcome import OUTCOME_ROWS

Columns = Callable[[LabelledRun], Array]
"""`[readings, n]` further sizes."""


def table(runs: Sequence[LabelledRun]) -> str:
    """Recall with further information, on the families whose answers are judged, each held out as before."""
    kept = [run for run in runs if run.family in ANSWERED and len(run.sizes)]
    variants: dict[str, list[Columns]] = {
        "as shipped": [],
        "(a) 50 judged answers: shipped where there are any": [judged],
        "(b) length of the answers": [lengths],
        "(c) fall of left-over answers": [leftovers],
        "(a) and (c)": [judged, leftovers],
        "50 judged answers alone": [only(judged)],
    }
    rows = []
    for name, columns in variants.items():
        scored = held_out(kept, lambda run, columns=columns: _joined(run, columns))  # type: ignore[misc]
        rows.append([name, auc_of(scored), recall_at(scored), *rates(warned(scored, threshold_of(scored)))])
    headings = ["area under ROC", "recall at 5% false alarms", "precision", "recall", "false-alarm rate", "lead (median)"]
    return markdown_table(["what a warning reads", *headings], rows)


def only(columns: Columns) -> Columns:
    """Mark columns that stand alone."""
    return lambda run: np.concatenate([np.zeros_like(chosen(run)), columns(run)], 1)


def _joined(run: LabelledRun, columns: Sequence[Columns]) -> Array:
    parts = [column(run) for column in columns]
    if len(parts) == 1 and parts[0].shape[1] > run.sizes.shape[1]:
        return parts[0]
    return np.concatenate([chosen(run), *parts], 1)


def judged(run: LabelledRun) -> Array:
    """Fall of the score of 50 judged answers that are in no label, beyond one standard error."""
    return run.sizes[:, JUDGED[-1:]]


def lengths(run: LabelledRun) -> Array:
    """How far the answers' mean length has moved, as the size of the logarithm of its ratio to the start."""
    rows = [(row["step"], float(np.mean(row["task/length"]))) for row in read_rows(ROOT / run.cell.folder, OUTCOME_ROWS)]
    return _latest(run, [(step, abs(float(np.log(length / rows[0][1])))) for step, length in rows])


def leftovers(run: LabelledRun) -> Array:
    """Fall of the policy's own left-over answers in their spread at step 0, as log(1 + x)."""
    return np.array([[np.log1p(max(fall("leftover", first, latest), 0.0))] for first, latest in _bank(run)])


def _bank(run: LabelledRun) -> list[tuple[dict[str, float], dict[str, float]]]:
    steps = dict(run.steps)
    return [(steps[0], steps[step]) for step in run.reading_steps]


def _latest(run: LabelledRun, known: Sequence[tuple[int, float]]) -> Array:
    values = [[value for step, value in known if step <= reading][-1] for reading in run.reading_steps]
    return np.array(values, dtype=np.float64).reshape(-1, 1)
