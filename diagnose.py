"""Diagnoses a policy from the checkpoints that any trainer left.

`python diagnose.py CHECKPOINT ... --reference BASE --pairs FILE`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import train
from command_line.failures import told
from diagnosis.command import arguments, validate_options
from diagnosis.result import write_result
from diagnosis.verdict import verdict_lines
from run_folder.program import spelled


def main(args: Sequence[str] | None = None) -> None:
    """Read the checkpoints, print what happened in under ten lines, and write the page; leave with a sentence where that fails."""
    asked = arguments(args)
    # LightningCLI warns of arguments of the process beside those that it is given.
    sys.argv[1:] = []
    try:
        options = validate_options(asked)
        # The verdict alone goes to the standard output.
        with redirect_stdout(sys.stderr):
            folder = Path(train.main(["validate", *options]).trainer.log_dir or "")
    except (ValueError, OSError) as error:
        sys.exit(spelled(f"diagnose.py: {told(error)}"))
    lines = verdict_lines(folder, asked.reference)
    if asked.json:
        write_result(asked.json, folder, asked.output, lines)
    print("\n".join([*lines, f"Page: {asked.output}   Rows: {folder / 'diagnostics'}"]))


if __name__ == "__main__":
    main()
