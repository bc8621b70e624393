"""Held-out data: splitting by prompt, and finding prompts that are on both sides."""

from __future__ import annotations

import numpy as np

from datamodules.loading.sampler import Ints
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
    groups: dict[bytes, list[int]] = {}
    for index in range(len(examples)):
        groups.setdefault(examples.prompt_key(index), []).append(index)
    if len(groups) < 2:
        raise ValueError(
            f"expected at least two different prompts to hold some out, got {len(groups)}. Give a file for val, or val_fraction: 0."
        )
    members = list(groups.values())
    order = np.random.default_rng(seed).permutation(len(members))
    sizes = np.cumsum([len(members[group]) for group in order])
    # The first group is always held out and the last never, so that neither side is empty.
    taken = int(np.clip(np.searchsorted(sizes, fraction * len(examples)) + 1, 1, len(members) - 1))
    held_out = np.sort(np.concatenate([members[group] for group in order[:taken]]))
    return np.setdiff1d(np.arange(len(examples)), held_out), held_out


def count_shared_prompts(examples: ExampleStore, others: ExampleStore) -> int:
    """How many of `examples` have a prompt that is in `others` too."""
    prompts = {others.prompt_key(index) for index in range(len(others))}
    return sum(examples.prompt_key(index) in prompts for index in range(len(examples)))
