"""Locates the application that this package installs, and starts it in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def application() -> Path:
    """Folder of `train.py`, `configs` and the rest: within the package when it is installed, above it in a checkout."""
    inside = _HERE / "application"
    return inside if inside.is_dir() else _HERE.parent


def open_application() -> None:
    """Let this process import the application's modules, before any others of the same names.

    Classes of the user's own that a config names are looked for in the working directory, last.
    """
    sys.path.insert(0, str(application()))
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


_START = (
    "import sys; parent = sys.argv.pop(1); sys.path[:0] = [] if parent in sys.path else [parent]; "
    "sys.argv[0] = 'prefscope'; from prefscope.command import main; sys.exit(main())"
)


def own_process(*arguments: str) -> list[str]:
    """The command line of a process that runs `prefscope` with these arguments, wherever this package was imported from."""
    # Neither the working directory's modules nor the caller's come before the application's.
    return [sys.executable, "-P", "-c", _START, str(_HERE.parent), *arguments]
