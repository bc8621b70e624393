"""Data modules that read files or hub data sets: checked, tokenised once, cached, and split by prompt."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.base import BaseDataModule
from datamodules.lengths import Ints
from datamodules.ranges import require_at_least
from datamodules.sources.code_digest import code_digest
from datamodules.sources.encoding import PromptEncoder
from datamodules.sources.formats import RowFormat
from datamodules.sources.preparation import LengthLimits, Preparation
from datamodules.sources.prompt_split import count_shared_prompts, split_by_prompt
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore
from datamodules.sources.token_cache import TokenCache
from datamodules.sources.tokenization import load_tokenizer, tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class FileDataModule(BaseDataModule):
    """Examples from files or hub data sets.

    Every row is checked. Bad rows stop the run, all kinds named at once, or are left out and counted; the report goes to the
    log once, into the cache, and into the run folder (`data_<split>.json`).

    Args:
        tokenizer: folder, hub name, or `.gguf` file; null takes the policy's, which the command line fills in.
        train: where the training rows are.
        format: what the columns mean.
        val: where the validation rows are; by default `val_fraction` of the training rows is held out, by prompt.
        test: where the test rows are; `predict` reads them too, or else the validation rows.
        val_fraction: share of the training rows held out where `val` is not given, in [0, 1); 0 for none.
        limit: rows of `train` to use, drawn by the seed before the held-out rows are taken; all by default.
        max_length: tokens of a prompt and one completion; the tail of a longer completion is cut.
        max_prompt_length: tokens of a prompt; the beginning of a longer one is cut. Uncut by default.
        on_bad_row: "error" or "skip".
        cache_dir: folder of cached token ids.
        batch_size: prompts per optimizer step over all ranks and accumulation steps; null fills every microbatch.
        max_tokens_per_batch: tokens in one forward pass at the most, prompts counted once.
        num_workers: processes that pack ahead.
        seed: of the order of the data, the split, and the probe bank.
        num_probe_prompts: prompts in the frozen probe bank.
        trust_remote_code: run the Python files that come with the tokenizer, with all your rights: read them first.
    """

    def __init__(
        self,
        tokenizer: str | None,
        train: DataSource,
        format: RowFormat,
        val: DataSource | None = None,
        test: DataSource | None = None,
        val_fraction: float = 0.05,
        limit: int | None = None,
        max_length: int = 1024,
        max_prompt_length: int | None = None,
        on_bad_row: Literal["error", "skip"] = "error",
        cache_dir: str = ".cache/prefscope",
        batch_size: int | None = 32,
        max_tokens_per_batch: int = 8192,
        num_workers: int = 0,
        seed: int = 0,
        num_probe_prompts: int = 16,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(batch_size, max_tokens_per_batch, num_workers, seed, num_probe_prompts)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"expected val_fraction in [0, 1), got {val_fraction}. Use 0 to hold nothing out.")
        if tokenizer is None:
            raise ValueError(
                "expected a tokenizer, got null, and the policy has no path to take one from. Set data.init_args.tokenizer."
            )
        require_at_least(1, limit=limit)
        self._limit = limit
        self._tokenizer_name = tokenizer
        self._trust_remote_code = trust_remote_code
        self._sources = {"train": train, "val": val, "test": test}
        self._format = format
        self._val_fraction = val_fraction
        self._limits = LengthLimits(max_length, max_prompt_length)
        self._on_bad_row = on_bad_row
        self._cache = TokenCache(Path(cache_dir) / "tokens")
        self._stores: dict[str, ExampleStore] = {}

    @property
    @override
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._loaded_tokenizer

    @override
    def prepare_data(self) -> None:
        # One process of a node tokenises; the others then find the cache.
        for source in filter(None, self._sources.values()):
            self._read(source)

    @override
    def examples(self, split: str) -> ExampleStore | None:
        if split == "predict":
            return self.examples("test" if self._sources["test"] else "val")
        if split in ("train", "val") and self._holds_out:
            return self._side_of_train(split)
        return self._store(split) if self._sources[split] else None

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self._sources["val"] is not None:
            shared = count_shared_prompts(self.dataset("val").examples, self.dataset("train").examples)
            rank_zero_info(f"{shared} of {len(self.dataset('val').examples)} validation rows have a prompt that is trained on.")

    @property
    def _holds_out(self) -> bool:
        return self._sources["val"] is None and self._val_fraction > 0

    def _side_of_train(self, split: str) -> ExampleStore:
        return self._store("train").select(self._sides[split])

    @cached_property
    def _sides(self) -> dict[str, Ints]:
        examples = self._store("train")
        kept, held_out = split_by_prompt(examples, self._val_fraction, self.seed)
        rank_zero_info(f"Held out by prompt for validation: {len(held_out)} of {len(examples)} rows; {len(kept)} train.")
        return {"train": kept, "val": held_out}

    def _store(self, split: str) -> ExampleStore:
        if split not in self._stores:
            source = self._sources[split]
            assert source is not None, "callers ask for splits that have a source"
            store, report = self._read(source)
            rank_zero_info(report.summary())
            self._stores[split] = self._limited(store) if split == "train" else store
            self._write_report(split, report)
        return self._stores[split]

    def _limited(self, store: ExampleStore) -> ExampleStore:
        if self._limit is None or self._limit >= len(store):
            return store
        drawn = np.random.default_rng([self.seed, len(store)]).choice(len(store), self._limit, replace=False)
        rank_zero_info(f"Using {self._limit} of {len(store)} training rows (limit).")
        return store.select(np.sort(drawn).tolist())

    def _read(self, source: DataSource) -> tuple[ExampleStore, RowReport]:
        # An edited format, or a newer version of this code, makes other tokens of the same bytes.
        code = code_digest((Preparation, PromptEncoder, type(source), self._row_format))
        key = (source.fingerprint(), code, self._limits, tokenizer_fingerprint(self.tokenizer))
        store, report = self._cache.get(key, lambda: self._prepare(source))
        if self._on_bad_row == "error":
            report.require_clean()
        return store, report

    def _prepare(self, source: DataSource) -> tuple[ExampleStore, RowReport]:
        return Preparation(source, self._row_format, PromptEncoder(self.tokenizer), self._limits).run()

    @property
    def _row_format(self) -> RowFormat:
        return self._format

    @cached_property
    def _loaded_tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._tokenizer_name, trust_remote_code=self._trust_remote_code)

    def _write_report(self, split: str, report: RowReport) -> None:
        if self.trainer is None or not self.trainer.loggers:
            return
        # log_dir is a collective: every rank asks for it, the first one writes.
        folder = self.trainer.log_dir
        if folder is not None and self.trainer.is_global_zero:
            Path(folder).mkdir(parents=True, exist_ok=True)
            report.save(Path(folder) / f"data_{split}.json")
