"""Finds held-out prompts in training data, exactly and after normalisation, removes and counts them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from lightning.pytorch.utilities import rank_zero_info

from datamodules.contracts.records import Text
from datamodules.tasks.base import TaskItem


def prompt_key(prompt: Text) -> str:
    """The prompt's letters and digits alone, in one case and one width: equal for prompts that differ in spelling only."""
    text = prompt if isinstance(prompt, str) else " ".join(message.content for message in prompt)
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def without_held_out(items: Iterable[TaskItem], held_out: Iterable[TaskItem], name: str) -> Iterator[TaskItem]:
    """The items whose prompt is not held out, exactly or after normalisation; how many were left out goes to the log.

    Args:
        items: to train on or to sample for.
        held_out: validation and test problems.
        name: what `items` are called in the log.
    """
    keys = {prompt_key(item.prompt) for item in held_out}
    left_out = 0
    for item in items:
        if prompt_key(item.prompt) in keys:
            left_out += 1
        else:
            yield item
    if left_out:
        rank_zero_info(f"{name}: left out {left_out} problems whose prompt is held out.")
