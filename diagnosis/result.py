"""The result of a diagnosis as an object: printed lines, the verdict on every property, and the rows of all checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from run_folder.rows import read_rows
from run_folder.verdict import HARM


def write_result(file: Path, folder: Path, page: Path, lines: Sequence[str]) -> None:
    """Write it as JSON.

    Args:
        file: to write.
        folder: of the diagnosis.
        page: the report.
        lines: of the verdict.
    """
    judged = read_rows(folder, "judged")
    verdicts: dict[str, str] = judged[-1]["verdicts"] if judged else {}
    result = {
        "verdict": list(lines),
        "properties": {name: found for name, found in verdicts.items() if name != HARM},
        "harm": verdicts.get(HARM, "not judged"),
        "checkpoints": read_rows(folder, "checkpoints"),
        "alarms": read_rows(folder, "alarms"),
        "page": str(page.resolve()),
        "folder": str(folder.resolve()),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1), encoding="utf-8")
