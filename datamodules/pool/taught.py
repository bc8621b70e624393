"""Data for a reward model: a pool's scored responses, and right and wrong solutions that a task makes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.contracts.batches import Role
from datamodules.contracts.records import CompletionRecord, Record, reply_to
from datamodules.formats.scored import RANKED
from datamodules.pool.data import PoolDataModule
from datamodules.sources.prompt_split import count_shared_prompts
from datamodules.sources.store import ExampleStore
from datamodules.tasks.base import TaskItem

RIGHT, WRONG = 1.0, 0.0
"""Scores of what the task makes; they are compared within a prompt alone, never with a judge's."""


class TaughtPoolDataModule(PoolDataModule):
    """`PoolDataModule`, and beside the pool's training prompts the task's training problems.

    Of those the solution is better than every other response that comes with it: nothing is sampled and nothing judged, that the
    others are worse is the task's word. Held out are prompts of the pool, as without the task; a problem that is one of them is an
    error.

    Args:
        **pool: arguments of `PoolDataModule`; `task` has to have `train` problems with other responses.
    """

    # jsonargparse reads the arguments of the base class through **pool.
    def __init__(self, **pool: Any) -> None:  # noqa: ANN401
        super().__init__(**pool)
        if self.task is None:
            raise ValueError("expected a task that makes right and wrong solutions, got none. Set data.init_args.task.")

    @override
    def examples(self, split: str) -> ExampleStore | None:
        return self._taught if split == "train" else super().examples(split)

    @cached_property
    def _taught(self) -> ExampleStore:
        own, made, held_out = super().examples("train"), self._made(), super().examples("val")
        assert own is not None, "a pool has pairs, or the view has raised"
        if held_out is not None and (shared := count_shared_prompts(held_out, made)):
            raise ValueError(f"expected training problems that are not held out, got {shared} that are. Change the task's seed.")
        rank_zero_info(f"Training prompts: {len(own)} of the pool, {len(made)} of the task.")
        return ExampleStore.of(chain(own, made))

    def _made(self) -> ExampleStore:
        assert self.task is not None, "checked by the constructor"
        records = [_record(item, number) for number, item in enumerate(self.task.items("train"))]
        if not records:
            raise ValueError("expected training problems of the task, got none. Set how many it is to make.")
        return self.text.prepared(f"right and wrong solutions of {self.task.name}", records)


def _record(item: TaskItem, number: int) -> Record:
    return Record(item.text, tuple(_completions(item)), number)


def _completions(item: TaskItem) -> Iterator[CompletionRecord]:
    if item.solution is None or not item.others:
        raise ValueError(
            f"expected a solution and other responses with every training problem, got {len(item.others)} others with "
            f"{item.prompt[:60]!r}. Set the task to make some (num_slips of the arithmetic task)."
        )
    yield CompletionRecord(reply_to(item.text, item.solution), Role.CHOSEN, "chosen", RIGHT)
    for number, (_, text) in enumerate(item.others):
        role, kind = (Role.SAMPLE, RANKED) if number else (Role.REJECTED, "rejected")
        yield CompletionRecord(reply_to(item.text, text), role, kind, WRONG)
