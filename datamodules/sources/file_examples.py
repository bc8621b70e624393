"""Examples of files or hub data sets: checked, tokenised once, cached, and split by prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from datamodules.contracts.ranges import require_at_least
from datamodules.formats.columns import RowFormat
from datamodules.loading.lengths import Ints
from datamodules.sources.code_digest import code_digest
from datamodules.sources.preparation import Preparation
from datamodules.sources.prompt_split import split_by_prompt
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore
from datamodules.sources.text_reading import TextReading
from datamodules.sources.token_cache import TokenCache
from datamodules.tokens.encoding import PromptEncoder
from datamodules.tokens.tokenization import tokenizer_fingerprint


@dataclass(frozen=True)
class HeldOut:
    """What part of the training rows is used, and what part of that is held out, by prompt."""

    val_fraction: float = 0.05
    """Share held out where there are no validation rows, in [0, 1); 0 for none."""
    limit: int | None = None
    """Rows to use, drawn before the held-out ones are taken; all by default."""
    seed: int = 0
    """Of both draws."""

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"expected val_fraction in [0, 1), got {self.val_fraction}. Use 0 to hold nothing out.")
        require_at_least(1, limit=self.limit)


@dataclass(frozen=True)
class FileExamples:
    """Examples of rows. The first time that a split is asked for, its rows are read, or found in the cache."""

    rows: Mapping[str, DataSource | None]
    """Where the rows of "train", "val" and "test" are; None where there are none."""
    format: RowFormat
    """What the columns mean."""
    reading: TextReading
    held_out: HeldOut
    cache: TokenCache
    _stores: dict[str, ExampleStore] = field(default_factory=dict, init=False, repr=False)
    _reports: dict[str, RowReport] = field(default_factory=dict, init=False, repr=False)

    def prepare(self) -> None:
        """Read all rows: one process of a node tokenises, the others then find the cache."""
        for source in filter(None, self.rows.values()):
            self._read(source)

    def examples(self, split: str) -> ExampleStore | None:
        """Examples of "train", "val", "test" or "predict" (the test rows, or else the validation rows); None if there are none."""
        if split == "predict":
            return self.examples("test" if self.rows["test"] else "val")
        if split in ("train", "val") and self.rows["val"] is None and self.held_out.val_fraction:
            return self._store("train").select(self._sides[split])
        return self._store(split) if self.rows[split] else None

    def some(self, split: str, numbers: Collection[int], format: RowFormat) -> ExampleStore:
        """Some rows of a split in another format, uncached; those of `train` where the split is held out of it."""
        source = self.rows.get(split) or self.rows["train"]
        assert source is not None, "there are training rows"
        encoder = PromptEncoder(self.reading.tokenizer)
        return Preparation(source, format, encoder, self.reading.limits, numbers).run()[0]

    def new_reports(self) -> Iterator[tuple[str, RowReport]]:
        """What became of the rows of each split that was read since the last call."""
        while self._reports:
            yield self._reports.popitem()

    @cached_property
    def _sides(self) -> dict[str, Ints]:
        examples = self._store("train")
        kept, held_out = split_by_prompt(examples, self.held_out.val_fraction, self.held_out.seed)
        rank_zero_info(f"Held out by prompt for validation: {len(held_out)} of {len(examples)} rows; {len(kept)} train.")
        return {"train": kept, "val": held_out}

    def _store(self, split: str) -> ExampleStore:
        if split not in self._stores:
            source = self.rows[split]
            assert source is not None, "callers ask for splits that have a source"
            store, self._reports[split] = self._read(source)
            rank_zero_info(self._reports[split].summary())
            self._stores[split] = self._limited(store) if split == "train" else store
        return self._stores[split]

    def _limited(self, store: ExampleStore) -> ExampleStore:
        limit = self.held_out.limit
        if limit is None or limit >= len(store):
            return store
        drawn = np.random.default_rng([self.held_out.seed, len(store)]).choice(len(store), limit, replace=False)
        rank_zero_info(f"Using {limit} of {len(store)} training rows (limit).")
        return store.select(np.sort(drawn).tolist())

    def _read(self, source: DataSource) -> tuple[ExampleStore, RowReport]:
        # An edited format, or a newer version of this code, makes other tokens of the same bytes.
        code = code_digest((Preparation, PromptEncoder, type(source), self.format))
        key = (source.fingerprint(), code, self.reading.limits, tokenizer_fingerprint(self.reading.tokenizer))
        store, report = self.cache.get(key, lambda: self._prepare(source))
        if self.reading.on_bad_row == "error":
            report.require_clean()
        return store, report

    def _prepare(self, source: DataSource) -> tuple[ExampleStore, RowReport]:
        encoder = PromptEncoder(self.reading.tokenizer)
        return Preparation(source, self.format, encoder, self.reading.limits, spill_to=self.cache.scratch()).run()
