"""Runs studies and writes their pages: `python -m studies run|page|list [NAME]`."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from command_line.failures import exit_code
from studies.files import load_study, study_names
from studies.study import ROOT, Study
from studies.timing import expected_seconds, seconds_of, total


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    commands = described.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make the runs that are missing")
    run.add_argument("names", nargs="+", metavar="NAME", help="studies; a later one may start from runs of an earlier one")
    run.add_argument("--only", nargs="+", default=[], metavar="FACTOR=LEVEL[,LEVEL]", help="runs with these levels alone")
    run.add_argument("--dry-run", action="store_true", help="print the commands of the missing runs instead")
    page = commands.add_parser("page", help="write the page from the runs that are complete")
    page.add_argument("names", nargs="+", metavar="NAME")
    page.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings that no YAML has, such as a folder of data"
    )
    quick = "a subset; its page goes to runs/studies/NAME/quick_page"
    for command in (run, page):
        command.add_argument("--quick", action="store_true", help=quick)
    listed = commands.add_parser("list", help="what is complete, and how long the rest takes")
    listed.add_argument("names", nargs="*", metavar="NAME", help="show every run of these studies")
    return described


def main(args: Sequence[str] | None = None) -> None:
    """Do what the command line says.

    Raises:
        SystemExit: with 1 where a run failed.
        ValueError: for a study, a factor or a level that is not there.
    """
    asked = parser().parse_args(args)
    if asked.command == "list":
        show(asked.names)
        return
    studies = [load_study(name, is_quick=asked.quick) for name in asked.names]
    if asked.command == "page":
        for study in studies:
            write_page(replace(study, settings={**study.settings, **pairs(asked.set)}))
    elif asked.dry_run:
        missing = [cell for study in studies for cell in study.select(levels(asked.only)) if not cell.is_complete]
        print("\n".join(shlex.join(["python", "train.py", *cell.command()]) for cell in missing))
    else:
        run(studies, levels(asked.only))


def run(studies: Sequence[Study], only: dict[str, list[str]]) -> None:
    """Make what is missing of every study."""
    from studies.running import make

    failures = [line for study in studies for line in make(study.select(only))]
    if failures:
        sys.exit("\n".join(["These runs failed:", *failures]))


def levels(given: Sequence[str]) -> dict[str, list[str]]:
    """`factor=level,level` as `{factor: [level, level]}`."""
    return {factor: names.split(",") for factor, names in pairs(given).items()}


def pairs(given: Sequence[str]) -> dict[str, str]:
    """`key=value` as `{key: value}`.

    Raises:
        ValueError: for words without a `=`.
    """
    unclear = [words for words in given if "=" not in words]
    if unclear:
        raise ValueError(f"expected KEY=VALUE, got {', '.join(unclear)}. An example: --only seed=0,1")
    return dict(words.split("=", 1) for words in given)


def write_page(study: Study) -> None:
    """Write docs/results/<study> from the runs that are complete.

    Raises:
        ValueError: if the study has no page, or no run of it is complete.
    """
    if study.page is None:
        raise ValueError(f"expected a study with a page, got {study.name}: its YAML names none.")
    complete = sum(cell.is_complete for cell in study.cells)
    if study.grid and not complete:
        raise ValueError(f"expected complete runs of {study.name}, got none. Make them: python -m studies run {study.name}")
    if complete < len(study.cells):
        print(f"{study.name}: {complete} of {len(study.cells)} runs are complete; the page shows those.")
    study.out.mkdir(parents=True, exist_ok=True)
    importlib.import_module(study.page).write(study)
    print(study.out.relative_to(ROOT))


def show(names: Sequence[str]) -> None:
    """Print every study in a line, or every run of those that are named."""
    table = Table("study", "runs", "the rest takes", "what it is about", box=None, header_style="bold")
    if names:
        table = Table("run", "complete", "took", box=None, header_style="bold")
    for study in map(load_study, names or study_names()):
        missing = [cell for cell in study.cells if not cell.is_complete]
        if names:
            for cell in study.cells:
                took = seconds_of(cell)
                table.add_row(
                    f"{study.name}/{cell.name}", "yes" if cell.is_complete else "no", "" if took is None else total([took])
                )
        else:
            made = f"{len(study.cells) - len(missing)} of {len(study.cells)}"
            table.add_row(study.name, made, total(expected_seconds(study, missing)), study.title)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(exit_code(main, is_debug=False))
