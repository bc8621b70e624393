"""The alarms as they were before notices and warnings: bounds in nats per token of one model. Kept to be compared with."""

from __future__ import annotations

from callbacks.alarms.conditions import Condition
from callbacks.alarms.rules import AlarmRule
from callbacks.alarms.watch import AlarmWatch
from studies.verdict.families import LabelledRun

_CHOSEN = "likelihood/bank/chosen/change_per_token"
_OFF_DATA, _OFF_PAIR = "dispersion/bank/off_data_mass", "dispersion/bank/off_pair_mass"


def _rule(name: str, *conditions: Condition, patience: int = 1) -> AlarmRule:
    return AlarmRule(property=name, conditions=conditions, says=(), patience=patience)


OLD_RULES = (
    _rule(
        "drastic_drop",
        Condition(metric="likelihood/bank/rejected/change_per_token", below=-0.015, window=1),
        Condition(metric="likelihood/bank/other_chosen/change_per_token", of="change", below=-0.04, window=1),
        Condition(metric=_CHOSEN, below=0.065, window=1),
    ),
    _rule(
        "suppression",
        Condition(metric="likelihood/chosen/change_per_token", below=-0.008, window=4),
        Condition(metric=_OFF_DATA, of="growth", above=0.05, window=1),
    ),
    _rule(
        "suppression",
        Condition(metric=_CHOSEN, of="drift", below=-0.03, window=2),
        Condition(metric="likelihood/bank/drop_gap", of="drift", below=0.0, window=2),
    ),
    _rule("dispersion", Condition(metric=_OFF_DATA, of="growth", above=0.08, window=1), patience=2),
    _rule("dispersion", Condition(metric=_OFF_PAIR, of="drift", above=0.01, window=2)),
)


def first_alarm(run: LabelledRun) -> int | None:
    """Step of the first alarm that the old rules would have given."""
    watch = AlarmWatch(OLD_RULES)
    for step, numbers in run.steps:
        watch.hear(numbers)
        # Nothing was judged before the first step.
        if step > 0:
            watch.judge(step)
    return min(watch.fired.values(), default=None)
