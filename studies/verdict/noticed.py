"""How often each notice shows in runs that ended fine and in those that ended wrong: a fact about it, for it claims no harm."""

from __future__ import annotations

from collections.abc import Sequence

from callbacks.alarms.features import FEATURES
from callbacks.alarms.notices import KL_RATIO, NOTICES, PREFIX
from callbacks.alarms.watch import AlarmWatch
from run_folder.rows import read_rows
from studies.readings import markdown_table
from studies.study import ROOT
from studies.verdict.evaluation import Warned, lead_of, wilson
from studies.verdict.families import APART, LabelledRun

_KL, _ENTROPY = "objective/kl", "objective/entropy"
REINFORCED = ("ppo", "rloo", "hacked_rloo")
"""Methods with rewards from outside."""


def noticed(run: LabelledRun) -> dict[str, int]:
    """Property -> step of its notice, as a run would have given it."""
    watch = AlarmWatch(NOTICES)
    accuracy = {
        row["step"]: row["task/accuracy"] for row in read_rows(ROOT / run.cell.folder, "accuracy") if "task/accuracy" in row
    }
    features = {step: (first, latest) for step, first, latest in run.readings}
    entropy: float | None = None
    for step, numbers in run.steps:
        watch.hear(numbers)
        if step in accuracy:
            watch.hear({"task/accuracy": accuracy[step]})
        if step in features:
            watch.hear({f"{PREFIX}/{feature.name}": feature.value(*features[step]) for feature in FEATURES})
        if {_KL, _ENTROPY} <= numbers.keys():
            entropy = entropy or numbers[_ENTROPY]
            watch.hear({KL_RATIO: numbers[_KL] / max(entropy, 1e-6)})
        if step > 0:
            watch.judge(step)
    return dict(watch.fired)


def table(runs: Sequence[LabelledRun]) -> str:
    """A row a property; the two of reinforcement on runs with rewards alone."""
    kept = [run for run in runs if run.family != APART]
    shown = {id(run): noticed(run) for run in kept}
    rows = []
    for name in dict.fromkeys(rule.property for rule in NOTICES):
        needs_rewards = any(rule.needs for rule in NOTICES if rule.property == name)
        members = [run for run in kept if not needs_rewards or run.method in REINFORCED]
        sides = [[run for run in members if run.outcome.is_wrong == is_wrong] for is_wrong in (True, False)]
        shares = [wilson(sum(name in shown[id(run)] for run in side), len(side)) for side in sides]
        rows.append([name, *shares, lead_of([Warned(run, shown[id(run)].get(name)) for run in sides[0]])])
    return markdown_table(["notice", "shows in wrong runs", "shows in fine runs", "before harm (median)"], rows)
