"""The command `prefscope`: `prefscope fit --config toy_dpo`, `prefscope diagnose CHECKPOINT ... --pairs FILE`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from prefscope import __version__
from prefscope.application import open_application

OTHERS = {
    "diagnose": ("diagnose:main", "what became of a policy, from checkpoints that any trainer left"),
    "advise": ("advise:main", "which remedy helps a run that goes wrong, by trying them"),
    "report": ("report:main", "one page of one or several runs"),
    "demo": ("demo:demo", "train the embedded model in two ways, and compare them"),
    "pool": ("datamodules.pool.commands:main", "look at, check and merge response pools"),
    "cache": ("datamodules.cache:main", "look at what runs keep on disk, or clear it"),
}
"""Subcommand that is no run -> the function that takes its arguments, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line."""
    open_application()
    # The application's: nobody has them before the line above.
    failures, help_pages, train = (import_module(name) for name in ("command_line.failures", "command_line.help", "train"))
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] and given[0] in OTHERS:
        return int(failures.exit_code(lambda: _other(given[0], given[1:]), is_debug="--debug" in given))
    if given == ["--version"]:
        print(f"prefscope {__version__}")
        return 0
    if not given or given in (["-h"], ["--help"]):
        print(help_pages.program_page({name: what for name, (_, what) in OTHERS.items()}))
        return 0 if given else 2
    return int(train.command(arguments))


def _other(name: str, arguments: list[str]) -> object:
    module, _, function = OTHERS[name][0].partition(":")
    if find_spec(module.partition(".")[0]) is None:
        raise ValueError(f"expected a version of prefscope that has `{name}`, got one that has not. Install a newer one.")
    given = [argument for argument in arguments if argument != "--debug"]
    # Those that know nothing else of the application are told what they are called.
    called = {"program": f"prefscope {name}"} if module.startswith("datamodules") else {}
    return getattr(import_module(module), function)(given, **called)
