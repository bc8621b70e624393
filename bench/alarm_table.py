"""Measures how often the alarms are right: `python -m bench.alarm_table` writes docs/results/alarm/tables.md.

Rules are replayed over the rows that the runs wrote, by the code that hears them live.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.adaptive_beta import labelled_runs as further_runs
from bench.alarm_labels import Outcome, outcome_of
from bench.alarm_runs import EMBEDDED, ROOT, TOY, Run, runs_of
from callbacks.alarms.property_rules import PROPERTY_RULES
from callbacks.alarms.rules import AlarmRule
from callbacks.alarms.watch import AlarmWatch
from run_folder.rows import ROWS
from studies.readings import markdown_table as table

OUT = ROOT / "docs" / "results" / "alarm"
FACTORS = (0.0, 0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0)
ANY = "any alarm"

Readings = list[tuple[int, dict[str, float]]]
"""Step by step, what the diagnostics said."""


@dataclass(frozen=True)
class Labelled:
    """A run, what its diagnostics said, and how it ended."""

    run: Run
    readings: Readings
    outcome: Outcome


def load() -> list[Labelled]:
    """Every complete run of the labelled set; a configuration that stands in both sets is the same run and counts once."""
    runs = [run for setting in (EMBEDDED, TOY) for run in runs_of(setting)] + further_runs()
    distinct = {
        (run.setting.experiment, run.method, run.scenario, run.learning_rate, run.seed): run
        for run in reversed(runs)
        if run.is_complete
    }
    return [Labelled(run, readings_of(run), outcome_of(run)) for run in reversed(distinct.values())]


def readings_of(run: Run) -> Readings:
    """The rows of all diagnostics, merged by step."""
    by_step: dict[int, dict[str, float]] = {}
    for path in sorted((run.folder / ROWS).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
            by_step.setdefault(row["step"], {}).update(numbers)
    return sorted(by_step.items())


def fired(readings: Readings, rules: Sequence[AlarmRule]) -> dict[str, int]:
    """Property -> the step its alarm fires at."""
    watch = AlarmWatch(rules)
    for step, values in readings:
        watch.hear(values)
        # Nothing is judged before the first step has been taken.
        if step > 0:
            watch.judge(step)
    return dict(watch.fired)


def first_alarm(labelled: Labelled, rules: Sequence[AlarmRule]) -> int | None:
    """Step of the first alarm of any of the rules."""
    return min(fired(labelled.readings, rules).values(), default=None)


def wilson(hits: int, total: int) -> str:
    """A share with its 95% Wilson interval."""
    if not total:
        return "-"
    z, share = 1.96, hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return f"{share:.2f} [{max(0.0, centre - half):.2f}, {min(1.0, centre + half):.2f}] ({hits} of {total})"


def scores(runs: Sequence[Labelled], rules: Sequence[AlarmRule]) -> list[str]:
    """Precision, recall, false-alarm rate, and the lead time of the alarms that were right."""
    alarms = [(labelled, first_alarm(labelled, rules)) for labelled in runs]
    wrong = [(labelled, step) for labelled, step in alarms if labelled.outcome.is_wrong]
    false = sum(step is not None for labelled, step in alarms if not labelled.outcome.is_wrong)
    leads = [
        (labelled.outcome.harm_step - step) / labelled.run.setting.steps
        for labelled, step in wrong
        if step is not None and labelled.outcome.harm_step is not None
    ]
    early = sum(lead > 0 for lead in leads)
    lead = f"{median(leads):+.0%} of the run; before harm showed in {early} of {len(leads)}" if leads else "-"
    right = len(leads)
    return [wilson(right, right + false), wilson(right, len(wrong)), wilson(false, len(runs) - len(wrong)), lead]


def score_table(runs: Sequence[Labelled]) -> str:
    """A row a property, and one for all."""
    properties = list(dict.fromkeys(rule.property for rule in PROPERTY_RULES))
    groups = [(name, [rule for rule in PROPERTY_RULES if rule.property == name]) for name in properties]
    rows = [[name, *scores(runs, rules)] for name, rules in [*groups, (ANY, list(PROPERTY_RULES))]]
    return table(["alarm", "precision", "recall", "false-alarm rate", "lead (median)"], rows)


def sensitivity(runs: Sequence[Labelled]) -> str:
    """What other thresholds would have done, one at a time: `any alarm`'s recall and false-alarm rate, beside the rule's own."""
    rows = []
    for number, rule in enumerate(PROPERTY_RULES):
        for place, condition in enumerate(rule.conditions):
            cells = []
            for factor in FACTORS:
                bounds = {side: getattr(condition, side) * factor for side in ("above", "below")}
                bounds = {side: value for side, value in bounds.items() if math.isfinite(value)}
                changed = (*rule.conditions[:place], replace(condition, **bounds), *rule.conditions[place + 1 :])
                rules = [replace(rule, conditions=changed) if other == number else own for other, own in enumerate(PROPERTY_RULES)]
                cells.append(f"{_shares(runs, [rules[number]])}, all {_shares(runs, rules)}")
            rows.append([f"{rule.property}: {condition}", *cells])
    return table(["condition", *(f"x {factor:g}" for factor in FACTORS)], rows)


def _shares(runs: Sequence[Labelled], rules: Sequence[AlarmRule]) -> str:
    alarms = [(labelled.outcome.is_wrong, first_alarm(labelled, rules) is not None) for labelled in runs]
    return "/".join(f"{_mean(fires for wrong, fires in alarms if wrong == side):.2f}" for side in (True, False))


def _mean(values: Iterable[bool]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def run_table(runs: Sequence[Labelled]) -> str:
    """Every run with its label and its alarms."""
    rows = []
    for labelled in runs:
        outcome, alarms = labelled.outcome, fired(labelled.readings, PROPERTY_RULES)
        why = " and ".join(["accuracy"] * outcome.by_accuracy + ["off-data"] * outcome.by_off_data)
        said = ", ".join(f"{name} {step}" for name, step in alarms.items())
        half = "tuning" if labelled.run.is_tuning else "testing"
        label = f"wrong ({why}) from {outcome.harm_step}" if outcome.is_wrong else "fine"
        rows.append([labelled.run.name, half, *(f"{change:+.3f}" for change in outcome.changes), label, said])
    return table(["run", "half", "accuracy, change", "off-data mass, change", "label", "alarms, step"], rows)


def main() -> None:
    """Write the tables."""
    runs = load()
    halves: dict[str, Callable[[Labelled], bool]] = {
        "Testing half": lambda labelled: not labelled.run.is_tuning,
        "Testing half, embedded model": lambda labelled: not labelled.run.is_tuning and labelled.run.setting.name != TOY.name,
        "Testing half, toy": lambda labelled: not labelled.run.is_tuning and labelled.run.setting.name == TOY.name,
        "Tuning half (what the thresholds were chosen on)": lambda labelled: labelled.run.is_tuning,
    }
    sections = []
    for title, belongs in halves.items():
        half = list(filter(belongs, runs))
        wrong = sum(labelled.outcome.is_wrong for labelled in half)
        sections.append(f"## {title}\n\n{len(half)} runs, {wrong} of them wrong.\n\n{score_table(half)}")
    tuning = [labelled for labelled in runs if labelled.run.is_tuning]
    note = "Recall / false-alarm rate of the rule alone, and of all rules, on the tuning half, with one threshold times a factor."
    sections.append(f"## Other thresholds\n\n{note}\n\n{sensitivity(tuning)}")
    sections.append(f"## Every run\n\n{run_table(runs)}")
    preface = "# The alarms in numbers\n\nShares with 95% Wilson intervals. Written by `python -m bench.alarm_table`."
    (OUT / "tables.md").write_text("\n\n".join([preface, *sections]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
