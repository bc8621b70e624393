"""Tries remedies on forks of a run that goes wrong and says which one helps: `python advise.py runs/<experiment>/version_N`."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TextIO

from rich.console import Console

import train
from advice.command import advise, arguments
from advice.settings import Config, value_at
from command_line.failures import told
from run_folder.program import spelled


def main(args: Sequence[str] | None = None) -> None:
    """Try the remedies, print the table, the sentence and the next command; leave with a sentence where that fails."""
    asked = arguments(args)
    # LightningCLI warns of arguments of the process beside those that it is given.
    sys.argv[1:] = []
    console = Console(file=sys.stderr)
    try:
        answer = advise(asked, quiet_fit, console, _printed)
    except (ValueError, OSError) as error:
        sys.exit(spelled(f"advise.py: {told(error)}"))
    Console().print(answer.table)
    print(answer.sentence)
    print(spelled(f"Next: {answer.command}" if answer.command else "Next: nothing to run."))


def quiet_fit(config: Path, content: Config) -> None:
    """Train as the config says, with what is printed in a file beside it: here, or where several processes train in their own."""
    command = ["fit", "--config", str(config)]
    with config.with_suffix(".log").open("a", encoding="utf-8") as log:
        if value_at(content, "trainer.devices") in (1, "1"):
            with redirect_stdout(log), redirect_stderr(log), _logging_to(log):
                train.main(command)
            return
        here = Path(train.__file__)
        done = subprocess.run([sys.executable, str(here), *command], stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ValueError(f"expected the fork {config} to train, got exit code {done.returncode}. What it said: {log.name}")


def _printed(words: Sequence[str]) -> str:
    """What `train.py` prints; with --print_config it leaves when it has."""
    text = StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        train.main(list(words))
    return text.getvalue()


@contextmanager
def _logging_to(log: TextIO) -> Iterator[None]:
    """Lightning's loggers hold the error output that there was when they were made."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric")
    # A handler that several of them share, once; none of a kind that keeps what it is told.
    handlers = {id(one): one for name in names for one in logging.getLogger(name).handlers if type(one) is logging.StreamHandler}
    streams = [(one, one.stream) for one in handlers.values()]
    try:
        for handler, _ in streams:
            handler.setStream(log)
        yield
    finally:
        for handler, stream in streams:
            handler.setStream(stream)


if __name__ == "__main__":
    main()
