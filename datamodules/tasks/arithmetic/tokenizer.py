"""A character tokenizer for the arithmetic task."""

from __future__ import annotations

import string
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from datamodules.tasks.characters import character_tokenizer

CHARACTERS = string.ascii_letters + string.digits + " \n.,?#+-*/="


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character: letters, digits and the signs the problems use; any other character is unknown."""
    return character_tokenizer(CHARACTERS)


def main(folder: str) -> None:
    """Write the tokenizer to a folder: `python -m datamodules.tasks.arithmetic.tokenizer FOLDER`."""
    build_tokenizer().save_pretrained(Path(folder))


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
