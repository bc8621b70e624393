"""The command line: `python train.py fit|validate|test|predict --config configs/experiment/<name>.yaml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from command_line.failures import exit_code
from command_line.help import help_page
from command_line.ranks_end_together import end_with_parent

if TYPE_CHECKING:
    from lightning.pytorch.cli import ArgsType, LightningCLI


def main(args: ArgsType = None) -> LightningCLI:
    """Run one subcommand; `args` replaces the command line (tests and demos call it in process).

    Raises:
        SystemExit: with 143, 130 or 138 when SIGTERM, SIGINT or SIGUSR1 has stopped the run, with 2 for unreadable arguments.
    """
    # Not above: torch and Lightning take seconds, and a page of help needs neither.
    from command_line.experiment import run_experiment

    return run_experiment(args)


def command(args: Sequence[str] | None = None) -> int:
    """The exit code of a command line: 0, or 1 for a failure, which is told in words."""
    end_with_parent()
    given = sys.argv[1:] if args is None else list(args)
    page = help_page(given)
    work = (lambda: main(None if args is None else given)) if page is None else (lambda: print(page))
    return exit_code(work, is_debug="--debug" in given)


if __name__ == "__main__":
    sys.exit(command())
