"""Shared by the data modules of a task: its tokenizer, its held-out problems, and records as examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from typing_extensions import override

from datamodules.answering import Answering, PromptLoader
from datamodules.base import BaseDataModule
from datamodules.batches import Demand
from datamodules.in_memory import OnBadRow, encode_prompts, prepare_records
from datamodules.prompts import TaskPrompt
from datamodules.sources.preparation import LengthLimits
from datamodules.sources.records import Record
from datamodules.sources.store import ExampleStore
from datamodules.sources.tokenization import load_tokenizer
from datamodules.tasks.base import Task
from judges.base import Judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TaskDataModule(BaseDataModule):
    """Examples made in memory, beside the held-out problems of a task (a TaskStore).

    Args:
        tokenizer: folder, hub name, or `.gguf` file; null takes the policy's, which the command line fills in.
        task: where held-out problems come from; null for none.
        max_length: tokens of a prompt and one completion; the tail of a longer completion is cut.
        max_prompt_length: tokens of a prompt; the beginning of a longer one is cut. Uncut by default.
        on_bad_row: "error" or "skip".
        batch_size: prompts per optimizer step over all ranks and accumulation steps; null fills every microbatch.
        max_tokens_per_batch: tokens in one forward pass at the most, prompts counted once.
        num_workers: processes that pack ahead.
        seed: of the order of the data, and of the probe bank.
        num_probe_prompts: prompts in the frozen probe bank.
        test_decoding: how `test` draws responses to the held-out problems; greedy by default.
        trust_remote_code: run the Python files that come with the tokenizer, with all your rights: read them first.
    """

    def __init__(
        self,
        tokenizer: str | None,
        task: Task | None,
        max_length: int = 1024,
        max_prompt_length: int | None = None,
        on_bad_row: OnBadRow = "error",
        batch_size: int | None = 32,
        max_tokens_per_batch: int = 8192,
        num_workers: int = 0,
        seed: int = 0,
        num_probe_prompts: int = 16,
        test_decoding: Answering | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(batch_size, max_tokens_per_batch, num_workers, seed, num_probe_prompts)
        if tokenizer is None:
            raise ValueError(
                "expected a tokenizer, got null, and the policy has no path to take one from. Set data.init_args.tokenizer."
            )
        self._tokenizer_name = tokenizer
        self._trust_remote_code = trust_remote_code
        self._limits = LengthLimits(max_length, max_prompt_length)
        self._on_bad_row = on_bad_row
        self.task = task
        self._test_decoding = test_decoding or Answering()

    @property
    @override
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._loaded_tokenizer

    @override
    def test_dataloader(self) -> PromptLoader:  # type: ignore[override]
        """This rank's share of the held-out problems, to be decoded: without a trainer all of them.

        Raises:
            ValueError: if there are none.
        """
        if not self._task_prompts:
            raise ValueError("expected a task with test problems, got none. Set data.init_args.task, and what it is to test on.")
        return self._test_decoding.loader(self._task_prompts, self.tokenizer.eos_token_id, self.step_part)

    def task_prompts(self) -> Sequence[TaskPrompt]:
        """The held-out problems; none without a task."""
        return self._task_prompts

    @property
    def judge(self) -> Judge | None:
        """What scores responses to the problems: the task's judge; None without a task, or where it has none."""
        return None if self.task is None else self.task.scorer

    @override
    def demands(self) -> Iterator[Demand]:
        yield from super().demands()
        if self.trainer and self.trainer.testing and self._task_prompts:
            yield self._test_decoding.demand(self._task_prompts, "test problems with their answers")

    def prepared(self, name: str, records: Iterable[Record]) -> ExampleStore:
        """Records, checked, tokenised and cut (see `prepare_records`)."""
        return prepare_records(name, records, self.tokenizer, self._limits, self._on_bad_row)

    @cached_property
    def _task_prompts(self) -> list[TaskPrompt]:
        return [] if self.task is None else encode_prompts(list(self.task.items("test")), self.tokenizer)

    @cached_property
    def _loaded_tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self._tokenizer_name, trust_remote_code=self._trust_remote_code)
