"""A character tokenizer for poems: `python -m datamodules.tasks.writing.poem_tokenizer POEMS FOLDER [SIZE]`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from datamodules.tasks.characters import character_tokenizer
from datamodules.tasks.rows import TaskRows
from datamodules.tasks.writing.poem import PoemTask

SIZE = 3072
"""Characters by default: all but one in a hundred of those in quatrains and their titles."""


def commonest_characters(poems: str, size: int) -> str:
    """The commonest characters of quatrains and of their prompts, by number, then by code point."""
    task = PoemTask(train=TaskRows(poems), forms=("绝句",), on_bad_row="skip")
    counts = Counter(character for item in task.items("train") for character in f"{item.prompt}{item.solution}")
    return "".join(sorted(counts, key=lambda character: (-counts[character], character))[:size])


def main(poems: str, folder: str, size: str = str(SIZE)) -> None:
    """Write the tokenizer to a folder."""
    character_tokenizer(commonest_characters(poems, int(size))).save_pretrained(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
