"""Pairs of several sources in given proportions, for instance in place of the paper's COMMON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.contracts.examples import Example
from datamodules.contracts.ranges import require_at_least
from datamodules.formats.columns import RowFormat
from datamodules.sources.file_examples import FileExamples, HeldOut
from datamodules.sources.readers import DataSource
from datamodules.sources.store import ExampleStore
from datamodules.sources.token_cache import TokenCache
from datamodules.text import TextDataModule


@dataclass(frozen=True)
class MixturePart:
    """One source of a mixture."""

    train: DataSource
    format: RowFormat
    """What its columns mean."""
    weight: float
    """Its share of the training examples, > 0, relative to the other weights."""


class MixtureDataModule(TextDataModule):
    """Pairs of several sources, drawn by the seed in the proportions of their weights, each at most once.

    Every source holds out `val_fraction` of its own prompts. Every example has the name of its source.

    Args:
        tokenizer: folder, hub name, or `.gguf` file; null takes the policy's, which the command line fills in.
        parts: the sources by name.
        num_examples: training examples in all; by default as many as the scarcest source allows.
        val_fraction: share of each source held out for validation, by prompt, in [0, 1); 0 for none.
        cache_dir: folder of cached token ids.
        **text: further arguments of `TextDataModule`.
    """

    holds_rejected = True

    def __init__(
        self,
        tokenizer: str | None,
        parts: dict[str, MixturePart],
        num_examples: int | None = None,
        val_fraction: float = 0.05,
        cache_dir: str = ".cache/prefscope",
        **text: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(tokenizer, **text)
        require_at_least(1, num_examples=num_examples)
        self._weights = {name: part.weight for name, part in parts.items()}
        self._num_examples = num_examples
        self._held_out, self._cache = HeldOut(val_fraction, seed=self.seed), TokenCache(Path(cache_dir) / "tokens")
        self._sources = {name: self._examples_of(part) for name, part in parts.items()}

    def _examples_of(self, part: MixturePart) -> FileExamples:
        rows = {"train": part.train, "val": None, "test": None}
        return FileExamples(rows, part.format.for_pairs(), self.text, self._held_out, self._cache)

    @override
    def prepare_data(self) -> None:
        for source in self._sources.values():
            source.prepare()

    @override
    def examples(self, split: str) -> ExampleStore | None:
        if split not in ("train", "val") or (split == "val" and not self._held_out.val_fraction):
            return None
        stores = {name: _present(source.examples(split), name) for name, source in self._sources.items()}
        return ExampleStore.of(self._marked(self._drawn(stores) if split == "train" else stores))

    def _drawn(self, stores: Mapping[str, ExampleStore]) -> dict[str, ExampleStore]:
        counts = mixture_counts({name: len(store) for name, store in stores.items()}, self._weights, self._num_examples)
        rank_zero_info("Mixture: " + ", ".join(f"{counts[name]} of {len(store)} from {name}" for name, store in stores.items()))
        drawn = {}
        for number, (name, store) in enumerate(stores.items()):
            chosen = np.random.default_rng([self.seed, number]).choice(len(store), counts[name], replace=False)
            drawn[name] = store.select(np.sort(chosen))
        return drawn

    def _marked(self, stores: Mapping[str, ExampleStore]) -> Iterator[Example]:
        for name, store in stores.items():
            for example in store:
                yield replace(example, source=name)


def mixture_counts(sizes: Mapping[str, int], weights: Mapping[str, float], total: int | None) -> dict[str, int]:
    """How many examples each source gives: its share of `total`, whole numbers that sum to it.

    Args:
        sizes: examples there are.
        weights: > 0, the same names.
        total: examples in all; None for as many as the scarcest source allows.

    Raises:
        ValueError: if a weight is not positive, or a source has too few examples for its share.
    """
    if not weights or not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError(f"expected finite weights > 0, got {dict(weights)}. Leave out a source that is not wanted.")
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    if total is None:
        total = int(min(sizes[name] / share for name, share in shares.items()))
    exact = {name: total * share for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    # What rounding down left over goes to those that lost most by it.
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    scarce = [name for name, count in counts.items() if count > sizes[name]]
    if scarce:
        raise ValueError(
            f"expected at least {counts[scarce[0]]} examples from {scarce[0]}, got {sizes[scarce[0]]}. Lower num_examples or its "
            "weight: no example is used twice in a pass."
        )
    return counts


def _present(examples: ExampleStore | None, name: str) -> ExampleStore:
    assert examples is not None, f"{name} has a training source, and holds out from it"
    return examples
