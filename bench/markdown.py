"""Writes a result as a page with its command, the machine and the figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import publish


def write_page(path: Path, title: str, about: str, report: Mapping[str, Any], rows: Mapping[str, Mapping[str, float]]) -> None:
    """Write `path`: the text `about`, the command this process was called with, the machine, and a table of `rows`.

    Columns whose name ends in `share` are written in per cent.
    """
    columns = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(column.replace("_", " ") for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(column, row[column]) for column in columns) + " |")
    machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report["machine"].items())
    text = f"# {title}\n\n{about.strip()}\n\n`{command()}` ({machine}):\n\n" + "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, text: str, table: Sequence[str]) -> None:
    """Write `path`: what was measured and how, then the table; print the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))


def publish_page(
    title: str, about: str, report: Mapping[str, Any], rows: Mapping[str, Mapping[str, float]], out: Path | None
) -> None:
    """`publish`, and beside the JSON file `out` a page of the same name."""
    publish(report, rows, out)
    if out is not None:
        write_page(out.with_suffix(".md"), title, about, report, rows)


def command() -> str:
    """How this process was called, as one would type it."""
    module = Path(sys.argv[0]).stem
    return " ".join(["python", "-m", f"bench.{module}", *sys.argv[1:]])


def _cell(column: str, value: float) -> str:
    return f"{100 * value:.2f} %" if column.endswith("share") else f"{value:.4g}"
