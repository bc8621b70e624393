"""The command line up to the parsed config, for tests that read many commands; nothing is built."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jsonargparse import Namespace

from command_line.experiment import ExperimentCLI
from train import main

Parse = Callable[..., Namespace]
_BASE = Path(__file__).parent.parent / "configs" / "experiment" / "smollm2_hh_dpo.yaml"


@contextlib.contextmanager
def parsing() -> Iterator[Parse]:
    """`parse(subcommand, *arguments)` -> the config. One parser for all of them: making it takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        patch.setattr(ExperimentCLI, "instantiate_classes", lambda self: None)
        patch.setattr(ExperimentCLI, "_run_subcommand", lambda self, subcommand: None)
        cli = main(["fit", "--config", str(_BASE)])

        def parse_only(subcommand: str, *arguments: object) -> Namespace:
            cli.parse_arguments(cli.parser, [subcommand, *(str(argument) for argument in arguments)])
            cli.subcommand = subcommand
            cli.before_instantiate_classes()
            return cli.config[subcommand]

        yield parse_only
