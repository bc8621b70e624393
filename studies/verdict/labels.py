"""How a run ended, as docs/results/verdict defines it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from callbacks.alarms.features import fall_beyond_chance
from run_folder.rows import Track, read_rows, tracks_of
from studies.study import ROOT, Cell
from studies.verdict.outcome import OUTCOME_ROWS

NOT_IN_LABEL = 50
"""Problems whose scores say what judged samples would tell, and no label."""
ACCURACY_FALL, GRADE_FALL, NLL_RISE, REPEATING, SAMPLES = 0.06, 0.05, 0.10, 0.5, 3
CHOSEN_FALL, OFF_PAIR_RISE = 0.05, 0.10
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Outcome:
    """The label, and what it is made of."""

    change: float
    """Of accuracy, grade, neutral text's log-likelihood per token (nats) or the toy's chosen probability since its best."""
    is_wrong: bool
    harm_step: int | None
    """First reading from which the condition held to the end; None where the run is fine."""
    judged: tuple[tuple[int, float], ...] = ()
    """(step, fall beyond one standard error) of the problems that are in no label."""


def outcome_of(cell: Cell, family: str) -> Outcome:
    """The label of a complete run."""
    folder = ROOT / cell.folder
    if family == "toy":
        return _toy(tracks_of(folder))
    rows = read_rows(folder, OUTCOME_ROWS)
    if family == "SmolLM2":
        return _neutral(rows)
    name, fall = ("task/score", GRADE_FALL) if family == "poem" else ("task/accuracy", ACCURACY_FALL)
    return _answered(rows, name, fall)


def _answered(rows: Sequence[dict[str, Any]], name: str, fall: float) -> Outcome:
    readings = [(row["step"], float(np.mean(row[name][NOT_IN_LABEL:]))) for row in rows]
    others = [(row["step"], _fall(rows[0][name][:NOT_IN_LABEL], row[name][:NOT_IN_LABEL])) for row in rows]
    start = readings[0][1]
    change = (readings[-1][1] + readings[-2][1]) / 2 - start
    is_wrong = change <= -fall + _ROUNDING
    harm = _settled(readings, lambda value: value <= start - fall + _ROUNDING) if is_wrong else None
    return Outcome(change, is_wrong, harm, tuple(others))


def _fall(start: Sequence[float], now: Sequence[float]) -> float:
    return fall_beyond_chance(float(np.mean(start)), float(np.mean(now)), float(np.var(start) + np.var(now)), len(now))


def _neutral(rows: Sequence[dict[str, Any]]) -> Outcome:
    rises = [(row["step"], float(np.mean(row["neutral/nll"])) - float(np.mean(rows[0]["neutral/nll"]))) for row in rows]
    repeated = [(row["step"], float(sum(share >= REPEATING for share in row["neutral/repetition"]))) for row in rows]
    by_text, by_samples = rises[-1][1] >= NLL_RISE, repeated[-1][1] - repeated[0][1] >= SAMPLES
    steps = [_settled(rises, lambda value: value >= NLL_RISE)] * by_text
    steps += [_settled(repeated, lambda value: value - repeated[0][1] >= SAMPLES)] * by_samples
    return Outcome(-rises[-1][1], by_text or by_samples, min(steps, default=None))


def _toy(tracks: dict[str, Track]) -> Outcome:
    chosen = tracks["toy/own_chosen"]
    off_pair = [(step, 1 - own - other) for (step, own), (_, other) in zip(chosen, tracks["toy/own_rejected"], strict=True)]
    start, peak = chosen[0][1], max(value for _, value in chosen)
    bound = max(start - _ROUNDING, peak - CHOSEN_FALL)
    by_chosen, by_mass = chosen[-1][1] <= bound, off_pair[-1][1] - off_pair[0][1] >= OFF_PAIR_RISE
    steps = [_settled(chosen, lambda value: value <= bound)] * by_chosen
    steps += [_settled(off_pair, lambda value: value >= off_pair[0][1] + OFF_PAIR_RISE)] * by_mass
    return Outcome(chosen[-1][1] - peak, by_chosen or by_mass, min(steps, default=None))


def _settled(track: Sequence[tuple[int, float]], holds: Callable[[float], bool]) -> int:
    """The first step from which it holds to the end; the last step where it does not hold there by itself."""
    settled = track[-1][0]
    for step, value in reversed(track):
        if not holds(value):
            break
        settled = step
    return settled
