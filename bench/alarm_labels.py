"""Labels a run from its rows, as docs/results/alarm defines it, with the step at which harm showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.alarm_runs import TOY, Run
from run_folder.rows import Track, tracks_of

ACCURACY_FALL, ACCURACY_RISE, OFF_DATA_RISE, CHOSEN_FALL = 0.08, 0.05, 0.10, 0.05
"""As docs/results/alarm/README.md defines them."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    by_accuracy: bool
    by_off_data: bool
    changes: tuple[float, float]
    """Of accuracy (toy: of the chosen probability since its peak) and of the off-data mass, at the end."""
    harm_step: int | None
    """First reading from which a condition that made the run wrong held to the end; None where the run is fine."""

    @property
    def is_wrong(self) -> bool:
        """Whether an alarm is asked for."""
        return self.by_accuracy or self.by_off_data


def outcome_of(run: Run) -> Outcome:
    """The label of a complete run."""
    tracks = tracks_of(run.folder)
    return _toy(tracks) if run.setting.name == TOY.name else _embedded(tracks)


def _embedded(tracks: dict[str, Track]) -> Outcome:
    accuracy, known = tracks["task/accuracy"], tracks["known_mass/known"]
    start, known_start = accuracy[0][1], known[0][1]
    gain = (accuracy[-1][1] + accuracy[-2][1]) / 2 - start
    by_accuracy = gain <= -ACCURACY_FALL + _ROUNDING
    by_off_data = known_start - known[-1][1] >= OFF_DATA_RISE and gain < ACCURACY_RISE - _ROUNDING
    steps = [_settled(accuracy, lambda value: value <= start - ACCURACY_FALL + _ROUNDING)] * by_accuracy
    steps += [_settled(known, lambda value: value <= known_start - OFF_DATA_RISE)] * by_off_data
    return Outcome(by_accuracy, by_off_data, (gain, known_start - known[-1][1]), min(steps, default=None))


def _toy(tracks: dict[str, Track]) -> Outcome:
    chosen = tracks["toy/own_chosen"]
    off_pair = [(step, 1 - own - other) for (step, own), (_, other) in zip(chosen, tracks["toy/own_rejected"], strict=True)]
    start, peak = chosen[0][1], max(value for _, value in chosen)
    fallen = max(start - _ROUNDING, peak - CHOSEN_FALL) if chosen[-1][1] < start else peak - CHOSEN_FALL
    by_accuracy = chosen[-1][1] <= fallen
    by_off_data = off_pair[-1][1] - off_pair[0][1] >= OFF_DATA_RISE
    steps = [_settled(chosen, lambda value: value <= fallen)] * by_accuracy
    steps += [_settled(off_pair, lambda value: value >= off_pair[0][1] + OFF_DATA_RISE)] * by_off_data
    changes = chosen[-1][1] - peak, off_pair[-1][1] - off_pair[0][1]
    return Outcome(by_accuracy, by_off_data, changes, min(steps, default=None))


def _settled(track: Track, holds: Callable[[float], bool]) -> int:
    """The first step from which it holds to the end; the last step where it does not hold there by itself."""
    settled = track[-1][0]
    for step, value in reversed(track):
        if not holds(value):
            break
        settled = step
    return settled
