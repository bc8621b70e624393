"""Supervised data of a task: its problems with the data set's own solutions."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import CompletionRecord, Record, reply_to
from datamodules.sources.store import ExampleStore
from datamodules.tasks.base import Task
from datamodules.tasks.data import TaskDataModule


class TaskSFTDataModule(TaskDataModule):
    """Problems with the data set's own solutions. See TaskDataModule for the options; `task` is required."""

    task: Task

    @override
    def examples(self, split: str) -> ExampleStore | None:
        if split not in ("train", "val"):
            # The test problems are decoded, not scored.
            return None
        records = list(self._records(split))
        return self.text.prepared(f"{self.task.name} {split}", records) if records else None

    def _records(self, split: str) -> Iterator[Record]:
        for number, item in enumerate(self.task.items(split)):
            if item.solution is not None:
                reply = reply_to(item.text, item.solution)
                yield Record(item.text, (CompletionRecord(reply, Role.CHOSEN, "chosen"),), number)
