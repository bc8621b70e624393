"""Reads the result of `advise.py` from the folder beside a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from reports.runs import Run
from reports.sections.start_end import table
from run_folder.program import spelled

MEANING = (
    "Remedies that were tried on copies of the run, beside going on unchanged. Differences above 0 are better; the 95% intervals "
    "hold for all of them at once."
)


def advice_html(runs: Sequence[Run]) -> str:
    """Every trial: the sentence, the table, and the command; empty where no run was advised."""
    return "\n".join(_trial_html(run, said) for run in runs for said in _trials(run.folder))


def _trials(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder.parent / f"advice_{folder.name}").glob("*/advice.json")):
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            warnings.warn(f"{path} is left out: expected JSON, got: {error}.", stacklevel=2)
            continue
        if isinstance(content, dict) and {"rows", "measures", "sentence"} <= content.keys():
            yield content


def _trial_html(run: Run, said: dict[str, Any]) -> str:
    measures = said["measures"]
    rows = [
        [row["title"], str(row["steps"]), *(row["cells"].get(name, "") for name in measures), row["verdict"]]
        for row in said["rows"]
    ]
    rows += [[row["title"], "", *("" for _ in measures), f"not tried: {row['reason']}"] for row in said.get("untried", ())]
    head = ["remedy", "steps", *measures.values(), "verdict"]
    command = f"<pre>{escape(spelled(said['command']))}</pre>" if said.get("command") else ""
    return (
        f"<p><b>{escape(run.name)}, from step {said['from_step']}:</b> {escape(said['sentence'])}</p>\n"
        f"{table(head, rows)}\n{command}"
    )
