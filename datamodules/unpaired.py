"""Single completions labelled good or bad: rows with labels, or pairs taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from typing_extensions import override

from datamodules.base import BaseDataModule
from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.files import FileDataModule
from datamodules.formats.columns import RowFormat
from datamodules.pool.data import PoolDataModule
from datamodules.sources.store import ExampleStore

MISMATCHED = "mismatched"
"""Kind of the completion that answers another prompt."""


class SingleCompletions(BaseDataModule):
    """What the data modules of single completions add to those of rows; the probe bank is that of the rows, pairs where they are.

    Args:
        mismatched: whether every example has another row's completion too, with weight 0 in the loss: `unpaired_kto` estimates the
            KL to the reference on it (arXiv 2402.01306, Sec. 4.1), `unpaired_bco` does not read it. Which one is drawn once from
            the seed, whatever the batches.
        kwargs: as of the data module of the rows.
    """

    holds_rejected = True

    def __init__(self, *, mismatched: bool = True, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self._mismatched = mismatched

    @override
    def examples(self, split: str) -> ExampleStore | None:
        rows = super().examples(split)  # type: ignore[safe-super]
        if rows is None:
            return None
        singles = [single for example in rows for single in taken_apart(example)]
        return ExampleStore.of(with_mismatched(singles, self.seed) if self._mismatched else singles)

    @override
    def bank_source(self, split: str) -> Sequence[Example]:
        return super().examples(split) or []  # type: ignore[safe-super]


class UnpairedDataModule(SingleCompletions, FileDataModule):
    """Rows of files or hub data sets: of the format kto, or pairs taken apart. See FileDataModule and SingleCompletions."""

    @override
    def as_read(self, format: RowFormat) -> RowFormat:
        return format.for_unpaired()


class UnpairedPoolDataModule(SingleCompletions, PoolDataModule):
    """A scenario's pairs taken apart. See PoolDataModule and SingleCompletions."""


def taken_apart(example: Example) -> Iterator[Example]:
    """Each labelled completion by itself."""
    for completion in example.completions:
        if completion.role in (Role.CHOSEN, Role.REJECTED):
            yield replace(example, completions=(completion,))


def with_mismatched(examples: Sequence[Example], seed: int) -> list[Example]:
    """Every example with the completion of another, whose prompt differs, as a probe; no longer than what is known to fit.

    Raises:
        ValueError: if there is but one prompt.
    """
    if len({example.prompt_ids for example in examples}) < 2:
        raise ValueError(
            f"expected rows with at least two prompts, because KTO estimates its KL on completions of other prompts, got "
            f"{len(examples)} rows with one prompt. Give more data, or set data.mismatched false and use unpaired_bco."
        )
    longest = max(example.num_rows for example in examples)
    order = np.random.default_rng([seed, len(examples)]).permutation(len(examples)).tolist()
    found: list[Example] = list(examples)
    for place, index in enumerate(order):
        example, step = examples[index], 1
        while (other := examples[order[(place + step) % len(order)]]).prompt_ids == example.prompt_ids:
            step += 1
        room = max(1, longest - len(example.prompt_ids))
        stray = TokenizedCompletion(other.completions[0].token_ids[:room], Role.PROBE, MISMATCHED)
        found[index] = replace(example, completions=(*example.completions, stray))
    return found
