"""Writes docs/results/advice/table.md from the rows of the evidence: `python -m studies.advice.page`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from callbacks.mathematics.bootstrap import bootstrap_interval
from studies.advice.cases import cells_in_order, wrong_case
from studies.advice.evidence import KEPT, LAST, rows
from studies.study import ROOT

OUT = ROOT / "docs" / "results" / "advice" / "table.md"
MATTERS = 0.05
Row = dict[str, Any]
Gains = npt.NDArray[np.float64]


def write(made: Sequence[Row], available: int) -> str:
    """The whole page.

    Args:
        made: rows of the cases.
        available: wrong runs that there were.
    """
    families = list(dict.fromkeys(row["family"] for row in made))
    parts = [
        "# Advice in numbers",
        f"{len(made)} cases of {available} wrong runs; made by `python -m studies.advice.evidence`, written by "
        "`python -m studies.advice.page`. Differences to going on, on problems that chose nothing; one fresh seed a case.",
        "## All cases",
        policies(made),
        *(part for family in families for part in (f"## {family}", policies([row for row in made if row["family"] == family]))),
        "## Advice against the habits",
        against(made),
        "## What was recommended",
        recommendations(made),
        "## What it cost",
        costs(made),
        "## Case by case",
        cases(made),
    ]
    return "\n\n".join(parts) + "\n"


def policies(made: Sequence[Row]) -> str:
    """Mean difference to going on, and how often it matters."""
    lines = ["| policy | cases | mean - going on | better by 0.05 | worse by 0.05 (harm) |", "|---|---|---|---|---|"]
    for policy in list(made[0]["ends"])[1:]:
        gains = np.array([row["ends"][policy] - row["ends"]["going on"] for row in made])
        lines.append(f"| {policy} | {len(made)} | {_mean(gains)} | {_beyond(gains)} |")
    return "\n".join(lines)


def _mean(gains: Gains) -> str:
    low, high = bootstrap_interval([gains])
    return f"{gains.mean():+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if len(gains) > 1 else "")


def _beyond(gains: Gains) -> str:
    """How many are better, and worse, by what matters."""
    return f"{int((gains >= MATTERS - 1e-9).sum())} | {int((gains <= 1e-9 - MATTERS).sum())}"


def against(made: Sequence[Row]) -> str:
    """The end that advice came to less that of each habit, case by case."""
    lines = ["| advice less | cases | mean | better by 0.05 | worse by 0.05 |", "|---|---|---|---|---|"]
    for habit in [name for name in made[0]["ends"] if name not in ("going on", "advice")]:
        gains = np.array([row["ends"]["advice"] - row["ends"][habit] for row in made])
        lines.append(f"| {habit} | {len(made)} | {_mean(gains)} | {_beyond(gains)} |")
    return "\n".join(lines)


def recommendations(made: Sequence[Row]) -> str:
    """How often what was recommended, and what became of it."""
    lines = ["| recommended | cases | mean - going on at the end | better by 0.05 | worse by 0.05 |", "|---|---|---|---|---|"]
    names = [row["recommended"] or "nothing" for row in made]
    for name in sorted(set(names), key=names.count, reverse=True):
        gains = np.array(
            [row["ends"]["advice"] - row["ends"]["going on"] for row, own in zip(made, names, strict=True) if own == name]
        )
        lines.append(f"| {name} | {len(gains)} | {gains.mean():+.3f} | {_beyond(gains)} |")
    return "\n".join(lines)


def costs(made: Sequence[Row]) -> str:
    """Of a trial, by what the run itself takes."""
    steps = [row["trial_steps"] / LAST for row in made]
    seconds = [row["trial_seconds"] / row["run_seconds"] for row in made if "trial_seconds" in row]
    timed = (
        f" Seconds, answers included, of {len(seconds)} cases: {np.median(seconds):.1f} runs ({min(seconds):.1f} to "
        f"{max(seconds):.1f})."
        if seconds
        else ""
    )
    return (
        f"Optimizer steps: {np.median(steps):.1f} runs (median; {min(steps):.1f} to {max(steps):.1f}).{timed} The runs have 24 "
        "steps; the cost of a trial is the same for a longer run."
    )


def cases(made: Sequence[Row]) -> str:
    """A line a case."""
    policies_ = list(made[0]["ends"])
    lines = [f"| case | label | recommended | {' | '.join(policies_)} |", "|---|---|---|" + "---|" * len(policies_)]
    for row in made:
        ends = " | ".join(f"{row['ends'][policy]:.2f}" for policy in policies_)
        start, end = row["label"]
        lines.append(f"| {row['case']} | {start:.2f} -> {end:.2f} | {row['recommended'] or 'nothing'} | {ends} |")
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / KEPT).write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    OUT.write_text(write(rows(), sum(wrong_case(*one) is not None for one in cells_in_order())), encoding="utf-8")
    print(OUT.relative_to(ROOT))
