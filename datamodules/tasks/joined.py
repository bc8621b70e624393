"""Several tasks as one: their splits joined, each problem marked with its task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from typing_extensions import override

from datamodules.tasks.base import Task, TaskItem
from datamodules.tasks.leaks import without_held_out
from judges.base import Judge


@dataclass(frozen=True, kw_only=True)
class JoinedTask(Task):
    """The problems of several tasks. Results have a line for each, and one for all, weighted by size.

    A task that has no such split gives nothing to it, but no prompt that any of them holds out is in "train" or "pool".
    """

    name = "joined"

    tasks: Sequence[Task]
    """At least one."""

    def __post_init__(self) -> None:
        if len({task.name for task in self.tasks}) < len(self.tasks) or not self.tasks:
            raise ValueError(f"expected tasks of different names, got {[task.name for task in self.tasks]}.")

    @override
    def items(self, split: str) -> Iterator[TaskItem]:
        items: Iterator[TaskItem] = chain.from_iterable(self._marked(task, split) for task in self.tasks)
        if split in ("train", "pool"):
            items = without_held_out(items, chain(self.items("val"), self.items("test")), f"{self.name} {split}")
        yield from items

    @override
    def own_judge(self) -> Judge | None:
        """The judge of the tasks.

        Raises:
            ValueError: if they have different ones: a score would mean something else from problem to problem.
        """
        judges = {judge and (judge.name, judge.version): judge for judge in (task.scorer for task in self.tasks)}
        if len(judges) > 1:
            kinds = [judge and judge.name for judge in judges.values()]
            raise ValueError(f"expected joined tasks of one judge, got {kinds}. Name one for all of them: data.task.judge.")
        return next(iter(judges.values()))

    def _marked(self, task: Task, split: str) -> Iterator[TaskItem]:
        for item in task.items(split):
            yield replace(item, subset=f"{task.name}/{item.subset}" if item.subset else task.name)
