"""The parser of `train.py`: its errors name the cause, the place and the remedy, and print no usage."""

from __future__ import annotations

import sys
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from command_line.advice import Asked, advice
from run_folder.program import spelled


class ExperimentParser(LightningArgumentParser):
    """A parser for people; one that jsonargparse makes for a class within hands its errors on, as it did."""

    asked: Asked | None = None
    """What is being parsed; a parser without it is one within."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        asked = self.asked
        if asked is not None and self.exit_on_error:
            parser = getattr(ex, "subcommand_parser", None) or self
            print(spelled(f"error: {advice(message, asked, parser.get_defaults().keys())}"), file=sys.stderr)
            if "--debug" in asked.arguments:
                print(f"\nAs jsonargparse has it:\n{message}", file=sys.stderr)
            self.exit(2)
        super().error(message, ex)
        raise AssertionError("jsonargparse's own error returns nowhere")
