"""The base of a task's data modules: its held-out problems and the judge of their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from typing_extensions import override

from datamodules.answering import Answering, PromptLoader
from datamodules.contracts.batches import Demand
from datamodules.contracts.prompts import TaskPrompt
from datamodules.tasks.base import Task
from datamodules.text import TextDataModule, encode_prompts
from judges.base import Judge


class TaskDataModule(TextDataModule):
    """Examples made in memory, beside the held-out problems of a task (a TaskStore).

    Args:
        tokenizer: folder, hub name, or `.gguf` file; null takes the policy's, which the command line fills in.
        task: where held-out problems come from; null for none.
        test_decoding: how `test` draws responses to the held-out problems; greedy by default.
        **text: further arguments of `TextDataModule`.
    """

    def __init__(
        self,
        tokenizer: str | None,
        task: Task | None,
        test_decoding: Answering | None = None,
        **text: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(tokenizer, **text)
        self.task = task
        self._test_decoding = test_decoding or Answering()

    @override
    def test_dataloader(self) -> PromptLoader:  # type: ignore[override]
        """This rank's share of the held-out problems, to be decoded: without a trainer all of them.

        Raises:
            ValueError: if there are none.
        """
        if not self._task_prompts:
            raise ValueError(
                "expected a task with test problems, got none. Set data.init_args.task, with a source of test problems."
            )
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

    @cached_property
    def _task_prompts(self) -> list[TaskPrompt]:
        return [] if self.task is None else encode_prompts(list(self.task.items("test")), self.tokenizer)
