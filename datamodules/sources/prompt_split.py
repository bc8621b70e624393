"""Splits by prompt, and finds prompts that are on both sides of a split."""

from __future__ import annotations

import numpy as np

from datamodules.loading.lengths import Ints
from datamodules.sources.store import ExampleStore


def split_by_prompt(examples: ExampleStore, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Indices of (kept, held out): no prompt is in both, and about `fraction` of the examples are held out.

    Args:
        examples: at least two different prompts.
        fraction: in (0, 1).
        seed: of the choice of prompts.

    Raises:
        ValueError: if all examples have the same prompt.
    """
    numbers: dict[bytes, int] = {}
    groups = np.array([numbers.setdefault(key, len(numbers)) for key in examples.prompt_keys()], dtype=np.int64)
    if len(numbers) < 2:
        raise ValueError(
            f"expected at least two different prompts to hold some out, got {len(numbers)}. Give a file for val, or "
            "val_fraction: 0."
        )
    order = np.random.default_rng(seed).permutation(len(numbers))
    sizes = np.cumsum(np.bincount(groups)[order])
    # The first group is always held out and the last never, so that neither side is empty.
    taken = int(np.clip(np.searchsorted(sizes, fraction * len(examples)) + 1, 1, len(numbers) - 1))
    is_held_out = np.isin(groups, order[:taken])
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def count_shared_prompts(examples: ExampleStore, others: ExampleStore) -> int:
    """How many of `examples` have a prompt that is in `others` too."""
    prompts = set(others.prompt_keys())
    return sum(key in prompts for key in examples.prompt_keys())
