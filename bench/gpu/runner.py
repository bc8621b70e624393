"""Runs parts one after another under one deadline, each in its own process group, and keeps what each has measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.rows import read_rows

RESERVE = 5.0
"""Seconds kept back to end a part and to write the table."""
SHORTEST = 10.0
"""Seconds under which a part is not started."""


@dataclass(frozen=True)
class Part:
    """One process: a module that takes `bench.gpu.rows.part_options`, and how long it may take."""

    name: str
    module: str
    limit: float
    """Seconds at the most; less where the deadline is nearer."""


@dataclass(frozen=True)
class Run:
    """Where the figures go, and until when."""

    folder: Path
    dry_run: bool
    deadline: float
    """`time.time()` at which everything has ended."""

    @property
    def rows(self) -> Path:
        """One JSON line for each measurement."""
        return self.folder / "rows.jsonl"

    @property
    def log(self) -> Path:
        """What the parts printed."""
        return self.folder / "log.txt"


def run_all(parts: Sequence[Part], run: Run) -> dict[str, Any]:
    """Run the parts in order; `table.json` is written anew after each. Returns the table."""
    run.folder.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, dict[str, Any]] = {}
    table: dict[str, Any] = {}
    for part in parts:
        started = time.time()
        outcomes[part.name] = {"outcome": _run(part, run), "seconds": round(time.time() - started, 1)}
        table = _write_table(outcomes, run)
        print(f"{part.name}: {outcomes[part.name]['outcome']} ({outcomes[part.name]['seconds']} s)", flush=True)
    return table


def _run(part: Part, run: Run) -> str:
    """`done`, or what went wrong."""
    left = run.deadline - time.time() - RESERVE
    limit = min(part.limit, left)
    if limit < min(part.limit, SHORTEST):
        return f"not run: {max(left, 0):.0f} s were left"
    with run.rows.open("a", encoding="utf-8") as rows:
        # A line that a kill cut off must not swallow the next part's first one.
        rows.write("\n")
    command = [sys.executable, "-m", part.module, "--part", part.name, "--rows", str(run.rows)]
    command += ["--ends", str(time.time() + limit), *(["--dry-run"] if run.dry_run else [])]
    with run.log.open("a", encoding="utf-8") as log:
        log.write(f"==> {part.name}\n")
        log.flush()
        # A group of its own, so that a time-out ends grandchildren too: one that is left over holds the GPU's memory.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return "done" if code == 0 else f"failed with exit code {code}: {_last_words(run.log)}"


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def _write_table(outcomes: dict[str, dict[str, Any]], run: Run) -> dict[str, Any]:
    table: dict[str, Any] = {name: {**outcome, "rows": {}} for name, outcome in outcomes.items()}
    for row in read_rows(run.rows):
        if row["part"] in table:
            figures = {key: value for key, value in row.items() if key not in ("part", "name")}
            table[row["part"]]["rows"][row["name"]] = figures
    temporary = run.folder / "table.json.tmp"
    temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    temporary.replace(run.folder / "table.json")
    return table
