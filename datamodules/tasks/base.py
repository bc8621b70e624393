"""What a task is to the rest of the project: problems with a gold answer, and perhaps the data set's own solution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One problem."""

    prompt: str
    answer: str | None = None
    """What a judge compares a response with: a final answer, or a worked solution that states one."""
    solution: str | None = None
    """The data set's own response, if it has one."""


class Task(ABC):
    """A source of problems. Subclasses are frozen dataclasses, so that a config names them by `class_path`."""

    name: str
    """Stored with every row of a pool."""

    @abstractmethod
    def items(self, split: str) -> Iterator[TaskItem]:
        """The problems of "train", "pool", "val" or "test", the same at every call.

        No prompt of "test" or "val" is in "train" or "pool".

        Raises:
            ValueError: if the task has no such split.
        """
