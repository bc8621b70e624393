"""The contract of a task: problems with a gold answer, the judge of the answers, and optional given responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from datamodules.contracts.records import Message, Text
from judges.base import Judge


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


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A source of problems. Subclasses are frozen dataclasses, so that a config names them by `class_path`."""

    name: ClassVar[str]
    """Stored with every row of a pool."""
    judge: Judge | None = None
    """Scores responses to the problems; null takes the task's own, where it has one."""

    @abstractmethod
    def items(self, split: str) -> Iterator[TaskItem]:
        """The problems of "train", "pool", "val" or "test", the same at every call.

        No prompt of "test" or "val" is in "train" or "pool".

        Raises:
            ValueError: if there is no such split, or its source is not what the task expects.
        """

    def own_judge(self) -> Judge | None:
        """The judge that was made for these problems; None if there is none. Built when it is asked for: it may read files."""
        return None

    @cached_property
    def scorer(self) -> Judge | None:
        """What scores responses to the problems: the judge that the config names, or else the task's own."""
        return self.judge or self.own_judge()
