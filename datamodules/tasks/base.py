"""The contract of a task: problems with a gold answer, and perhaps responses that come with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.sources.records import Message, Text


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One problem."""

    prompt: str
    """What is asked, as a judge reads it."""
    answer: str | None = None
    """What a judge compares a response with: a final answer, or a worked solution that states one."""
    solution: str | None = None
    """The data set's own response, if it has one."""
    others: tuple[tuple[str, str], ...] = ()
    """(name of a model, its response) for the responses of other models that come with the data."""
    subset: str | None = None
    """The set or kind it belongs to, where a task has several: a line of its own in the results."""
    is_chat: bool = False
    """Whether the prompt is a user's message for the tokenizer's chat template; else it is plain text."""

    @property
    def text(self) -> Text:
        """The prompt as the model gets it."""
        return (Message("user", self.prompt),) if self.is_chat else self.prompt


class Task(ABC):
    """A source of problems. Subclasses are frozen dataclasses, so that a config names them by `class_path`."""

    name: str
    """Stored with every row of a pool."""

    @abstractmethod
    def items(self, split: str) -> Iterator[TaskItem]:
        """The problems of "train", "pool", "val" or "test", the same at every call.

        No prompt of "test" or "val" is in "train" or "pool".

        Raises:
            ValueError: if there is no such split, or its source is not what the task expects.
        """
