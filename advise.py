"""Tries remedies on forks of a run that goes wrong and says which one helps: `python advise.py runs/<experiment>/version_N`."""

from __future__ import annotations

import logging
import signal
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

_STOPS = frozenset(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
_LINES = 3


def main(args: Sequence[str] | None = None) -> None:
    """Try the remedies, print the table, the sentence and the next command; leave with a sentence where that fails."""
    asked = arguments(args)
    # LightningCLI warns of arguments of the process beside those that it is given.
    sys.argv[1:] = []
    console = Console(file=sys.stderr)
    try:
        answer = advise(asked, quiet_fit, console, _printed)
    except Exception as error:
        sys.exit(spelled(f"advise.py: {told(error)}"))
    except (KeyboardInterrupt, SystemExit) as leaving:
        print("Stopped. What was trained is kept: the same command goes on from there.", file=sys.stderr)
        sys.exit(leaving.code if isinstance(leaving, SystemExit) else 128 + signal.SIGINT)
    Console().print(answer.table)
    print(answer.sentence)
    print(spelled(f"Next: {answer.command}" if answer.command else "Next: nothing to run."))


def quiet_fit(config: Path, content: Config) -> None:
    """Train as the config says, with what is printed in a file beside it: here, or where several processes train in their own.

    Raises:
        ValueError: if the config cannot be read, or of several processes one has failed; in words.
    """
    with config.with_suffix(".log").open("a", encoding="utf-8") as log:
        code = _fit_here(config, log) if value_at(content, "trainer.devices") in (1, "1") else _fit_apart(config, log)
    if code in _STOPS:
        raise SystemExit(code)
    if code:
        raise ValueError(f"{_reason(Path(log.name))} All that was printed: {log.name}")


def _fit_here(config: Path, log: TextIO) -> int:
    with redirect_stdout(log), redirect_stderr(log), _logging_to(log):
        try:
            train.main(["fit", "--config", str(config)])
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _fit_apart(config: Path, log: TextIO) -> int:
    command = [sys.executable, str(Path(train.__file__)), "fit", "--config", str(config)]
    return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode


def _reason(log: Path) -> str:
    """What a training said last: from its line of an error on, or else its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told_at = max((number for number, line in enumerate(lines) if "error: " in line), default=len(lines) - 1)
    said = " ".join(lines[told_at : told_at + _LINES])
    return said.partition("error: ")[2] or said or "expected the fork to train, got no word of why it did not."


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
