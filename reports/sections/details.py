"""Shows the details of single runs: notices, the data doctor, settings, and the command to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from reports.groups import Group, differences, settings
from reports.runs import CONFIG, Run
from reports.sections.start_end import table
from run_folder.program import spelled
from run_folder.properties import says_it_showed

ALARM, DOCTOR = "callbacks.alarms.property_alarm.PropertyAlarm", "callbacks.output.data_doctor.DataDoctor"


def alarms_html(runs: Sequence[Run]) -> str:
    """Every warning and notice with its step; whether an empty list means silence or nobody listening."""
    return "\n".join(filter(None, (part for run in runs for part in (_alarms_of(run), _verdicts_of(run)))))


def doctor_html(runs: Sequence[Run]) -> str:
    """What the data doctor wrote, a column a run."""
    examined = [run for run in runs if run.doctor]
    if not examined:
        return f'<p class="note">To have it examined: <code>--trainer.callbacks+={DOCTOR}</code></p>'
    facts = [dict(_flat(run.doctor)) for run in examined]
    names = dict.fromkeys(name for own in facts for name in own)
    rows = [[name, *(own.get(name, "") for own in facts)] for name in names]
    risks = (
        f'<p class="alarm"><b>{escape(run.name)}:</b> {escape(str(said))}</p>'
        for run in examined
        for said in run.doctor.get("warnings", ())
    )
    return "\n".join([*risks, table(["", *(run.name for run in examined)], rows)])


def runs_html(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    """Settings that differ between groups, then every run's command and config."""
    return "\n".join(filter(None, [_differing_html(groups), *(_run_html(run) for run in runs)]))


def command_of(run: Run) -> str:
    """The command that runs it again, from here."""
    folder = run.folder.resolve()
    config = (folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder) / CONFIG
    return f"{spelled(f'python train.py {run.subcommand}')} --config {shlex.quote(str(config))}"


def _alarms_of(run: Run) -> str:
    if run.alarms:
        items = (
            f'<p class="{_style(row)}"><b>{escape(run.name)}, step {escape(str(row["step"]))}: '
            f"{_level(row)}, {escape(str(row.get('property')).replace('_', ' '))}.</b> {escape(str(row.get('message')))}</p>"
            for row in run.alarms
        )
        return "\n".join(items)
    if run.verdicts:
        return ""
    said = "not judged, for the run did not end." if "PropertyAlarm" in str(run.config) else f"not switched on ({ALARM})."
    return f"<p>{escape(run.name)}: {escape(said)}</p>"


def _level(row: Mapping[str, Any]) -> str:
    return "warning" if row.get("level") == "warning" else "notice"


def _style(row: Mapping[str, Any]) -> str:
    return "alarm" if _level(row) == "warning" else "note"


def _verdicts_of(run: Run) -> str:
    """What became of the properties that nothing was said of, and of the warning."""
    silent = {
        name: verdict for name, verdict in run.verdicts.items() if not (says_it_showed(verdict) or verdict.startswith("warned"))
    }
    if not silent:
        return ""
    said = "; ".join(f"{name.replace('_', ' ')}: {verdict}" for name, verdict in silent.items())
    return f"<p>{escape(run.name)}: {escape(said)}.</p>"


def _differing_html(groups: Sequence[Group]) -> str:
    configs = [settings(group.runs[0].config) for group in groups]
    keys = differences(configs)
    if not keys:
        return ""
    rows = [[key, *(config.get(key, "") for config in configs)] for key in keys]
    return table(["setting", *(group.label for group in groups)], rows)


def _run_html(run: Run) -> str:
    config = escape(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
    return f"""<details><summary>{escape(run.name)}: <code>{escape(command_of(run))}</code></summary>
<pre>{config}</pre></details>"""


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """`(name, text)` of every number and word, nested names joined by a comma."""
    found: list[tuple[str, str]] = []
    for name, item in value.items():
        words = f"{prefix}{name}".replace("_", " ")
        if isinstance(item, Mapping):
            found += _flat(item, f"{words}, ")
        elif isinstance(item, float):
            found.append((words, f"{item:.4g}"))
        elif not isinstance(item, list):
            found.append((words, str(item)))
    return found
