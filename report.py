"""Turns run folders into one self-contained HTML page: `python report.py runs/<experiment>/version_N ... --output report.html`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.catalogue import PLOTS
from reports.groups import grouped
from reports.page import report_page
from reports.runs import load_run
from reports.sections.start_end import markdown_table
from run_folder.program import spelled

_DPI = 110


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, parsed."""
    description = "What runs did to their policies, laid over one another, as one HTML page."
    parser = argparse.ArgumentParser(prog=spelled("python report.py"), description=description)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders; runs that differ in their seeds alone become one curve")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="write every figure as a PNG too")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the first and last readings as a Markdown table too")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Write what was asked for; leave with a message for people where a folder is no run."""
    asked = arguments(args)
    try:
        runs = [load_run(folder) for folder in asked.runs]
    except ValueError as error:
        sys.exit(str(error))
    written = [_write(asked.output, report_page(runs))]
    groups = grouped(runs)
    if asked.table:
        written.append(_write(asked.table, markdown_table(groups)))
    if asked.png:
        asked.png.mkdir(parents=True, exist_ok=True)
        for plot in PLOTS:
            figure = plot.draw(groups)
            if figure is not None:
                written.append(asked.png / f"{plot.name}.png")
                figure.savefig(written[-1], dpi=_DPI, facecolor="white")
    print("\n".join(str(path) for path in written))


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
