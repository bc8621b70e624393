from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from datamodules.contracts.batches import Role
from datamodules.pool.data import PoolDataModule
from datamodules.pool.files import write_pool
from datamodules.pool.schema import PoolRow, Response
from datamodules.pool.taught import TaughtPoolDataModule
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer
from datamodules.tasks.base import Task, TaskItem


@dataclass(frozen=True)
class Given(Task):
    """Problems as they are."""

    name = "given"
    given: tuple[TaskItem, ...] = ()

    def items(self, split: str) -> Iterator[TaskItem]:
        yield from self.given if split == "train" else ()


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def pool(tmp_path: Path) -> str:
    rows = [
        PoolRow(f"Pool {number}?", (Response("right", "policy", 5.0), Response("wrong", "policy", 1.0))) for number in range(10)
    ]
    write_pool(tmp_path / "pool.jsonl", rows)
    return str(tmp_path / "pool.jsonl")


def taught(pool: str, tokenizer: str, task: Task | None) -> TaughtPoolDataModule:
    return TaughtPoolDataModule(pool=pool, scenario=1, shared=[1], tokenizer=tokenizer, task=task, val_fraction=0.3)


def test_training_prompts_are_the_pools_and_the_tasks_and_held_out_ones_the_pools(pool: str, tokenizer: str) -> None:
    data = taught(pool, tokenizer, ArithmeticTask(num_train=6, num_slips=3))
    plain = PoolDataModule(num_ranked=16, pool=pool, scenario=1, shared=[1], tokenizer=tokenizer, val_fraction=0.3)
    train, val, pool_train, pool_val = (d.examples(split) for d in (data, plain) for split in ("train", "val"))
    assert train is not None
    assert val is not None
    assert pool_train is not None
    assert pool_val is not None
    assert list(val) == list(pool_val)
    assert list(train)[:7] == list(pool_train)
    made = list(train)[7:]
    assert len(made) == 6
    decode = data.tokenizer.decode
    for example, item in zip(made, ArithmeticTask(num_train=6, num_slips=3).items("train"), strict=True):
        texts = [decode(completion.token_ids[:-1]) for completion in example.completions]
        assert texts == [item.solution, *(text for _, text in item.others)]
        assert [c.role for c in example.completions] == [Role.CHOSEN, Role.REJECTED, Role.SAMPLE, Role.SAMPLE]
        assert [c.score for c in example.completions] == [1.0, 0.0, 0.0, 0.0]


def test_a_problem_that_is_held_out_is_an_error(pool: str, tokenizer: str) -> None:
    leaky = Given(tuple(TaskItem(f"Pool {number}?", solution="right", others=(("m", "wrong"),)) for number in range(10)))
    with pytest.raises(ValueError, match="training problems that are not held out, got 3"):
        taught(pool, tokenizer, leaky).examples("train")


@pytest.mark.parametrize("item", [TaskItem("Q?", others=(("m", "wrong"),)), TaskItem("Q?", solution="right")])
def test_a_problem_without_right_or_wrong_is_an_error(item: TaskItem, pool: str, tokenizer: str) -> None:
    with pytest.raises(ValueError, match="a solution and other responses with every training problem"):
        taught(pool, tokenizer, Given((item,))).examples("train")


def test_no_task_or_no_problem_is_an_error(pool: str, tokenizer: str) -> None:
    with pytest.raises(ValueError, match="expected a task"):
        taught(pool, tokenizer, None)
    with pytest.raises(ValueError, match="training problems of the task, got none"):
        taught(pool, tokenizer, ArithmeticTask()).examples("train")
