"""Writes every measurement to disk as one JSON line as soon as it is taken.

A part of the script that fails, hangs or is killed loses what it has not measured yet, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PartOptions:
    """What every part of the script is given."""

    part: str
    """Its name in the table."""
    rows: Path
    """File that figures are appended to."""
    dry_run: bool
    """Small sizes on the CPU: whether it runs, not how fast."""
    ends: float
    """`time.time()` at which the part is stopped; it starts no measurement that would not end before."""

    @property
    def device(self) -> str:
        """`cuda`, or `cpu` in a dry run."""
        return "cpu" if self.dry_run else "cuda"

    def seconds_left(self) -> float:
        """Until the part is stopped."""
        return self.ends - time.time()

    def add(self, name: str, **figures: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Append one measurement, and print it."""
        line = json.dumps({"part": self.part, "name": name, **figures}, default=str)
        with self.rows.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line[:400], flush=True)

    def has_time_for(self, name: str, seconds: float) -> bool:
        """Whether a measurement of about `seconds` still fits; if not, its row says so."""
        if self.dry_run or self.seconds_left() >= seconds:
            return True
        self.add(name, skipped=f"about {seconds:.0f} s needed, {self.seconds_left():.0f} s left")
        return False


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file of figures, none if it is not there; a line cut by a kill is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def part_options() -> PartOptions:
    """The command line of a part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--ends", type=float, required=True)
    return PartOptions(**vars(parser.parse_args()))
