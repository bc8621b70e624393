"""Data modules that read files or hub data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.formats.columns import RowFormat
from datamodules.sources.file_examples import FileExamples, HeldOut
from datamodules.sources.prompt_split import count_shared_prompts
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore
from datamodules.sources.token_cache import TokenCache
from datamodules.text import TextDataModule


class FileDataModule(TextDataModule):
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
        cache_dir: folder of cached token ids.
        **text: further arguments of `TextDataModule`.
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
        cache_dir: str = ".cache/prefscope",
        **text: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(tokenizer, **text)
        self.format = format
        self.files = FileExamples(
            {"train": train, "val": val, "test": test},
            self.as_read(format),
            self.text,
            HeldOut(val_fraction, limit, self.seed),
            TokenCache(Path(cache_dir) / "tokens"),
        )

    def as_read(self, format: RowFormat) -> RowFormat:
        """What the kind of data makes of the format that the config names; every completion of a row by default."""
        return format

    @override
    def prepare_data(self) -> None:
        self.files.prepare()

    @override
    def examples(self, split: str) -> ExampleStore | None:
        return self.files.examples(split)

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.files.rows["val"] is not None:
            shared = count_shared_prompts(self.dataset("val").examples, self.dataset("train").examples)
            rank_zero_info(f"{shared} of {len(self.dataset('val').examples)} validation rows have a prompt that is trained on.")
        for split, report in self.files.new_reports():
            self._write(split, report)

    def _write(self, split: str, report: RowReport) -> None:
        if self.trainer is None or not self.trainer.loggers:
            return
        # log_dir is a collective: every rank asks for it, the first one writes.
        folder = self.trainer.log_dir
        if folder is not None and self.trainer.is_global_zero:
            Path(folder).mkdir(parents=True, exist_ok=True)
            report.save(Path(folder) / f"data_{split}.json")
