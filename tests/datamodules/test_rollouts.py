"""Prompts of a pool to sample for, and all its scored responses to compare."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from datamodules.contracts.batches import Role
from datamodules.contracts.prompts import Sampling
from datamodules.pool.data import PoolDataModule
from datamodules.pool.files import write_pool
from datamodules.pool.rollouts import RolloutDataModule
from datamodules.pool.schema import PoolRow, Response
from datamodules.tasks.arithmetic.task import ArithmeticTask
from datamodules.tasks.arithmetic.tokenizer import build_tokenizer


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """A pool of ten prompts with four scored and one unscored response each, and a tokenizer of characters."""
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    rows = [
        PoolRow(
            f"What is {number}?",
            (*(Response(f"is {number} {score}", "policy", float(score)) for score in (1, 5, 3, 2)), Response("no", "policy")),
            answer=f"#### {number}",
        )
        for number in range(10)
    ]
    write_pool(tmp_path / "pool.jsonl", rows)
    return {
        "pool": str(tmp_path / "pool.jsonl"),
        "tokenizer": str(tmp_path / "tokenizer"),
        "scenario": 1,
        "shared": [1],
        "batch_size": 2,
        "num_probe_prompts": 3,
    }


def test_every_pass_asks_every_prompt_once_in_an_order_of_its_own(options: dict[str, Any]) -> None:
    data = RolloutDataModule(prompts_per_rollout=5, num_samples=3, max_new_tokens=9, **options)
    asked = [[prompt.item.prompt for prompt in data.rollout_prompts(number).prompts] for number in range(4)]
    passes = [asked[0] + asked[1], asked[2] + asked[3]]
    assert [sorted(one) for one in passes] == [sorted(f"What is {number}?" for number in range(10))] * 2
    assert passes[0] != passes[1]
    batch = data.rollout_prompts(2)
    assert batch == data.rollout_prompts(2)
    assert batch.seed != data.rollout_prompts(3).seed
    assert (batch.num_samples, batch.sampling) == (3, Sampling(9, temperature=1.0, top_p=1.0))
    assert batch.prompts[0].item.answer == f"#### {batch.prompts[0].item.prompt[8:-1]}"


def test_it_is_watched_on_the_bank_of_the_pairs(options: dict[str, Any]) -> None:
    banks = []
    for data in (PoolDataModule(**options), RolloutDataModule(prompts_per_rollout=2, **options)):
        data.setup("fit")
        banks.append([batch.input_ids.tolist() for batch in data.probe_batches()])
    assert banks[0] == banks[1] != []


def test_held_out_prompts_are_not_sampled_for(options: dict[str, Any]) -> None:
    data = RolloutDataModule(prompts_per_rollout=8, **options, val_fraction=0.2)
    data.setup("fit")
    held_out = {example.prompt_ids for example in data.dataset("val").examples}
    assert len(held_out) == 2
    assert not held_out & {prompt.prompt_ids for prompt in data.rollout_prompts(0).prompts}
    with pytest.raises(ValueError, match="at least prompts_per_rollout = 9 prompts in the pool, got 8"):
        RolloutDataModule(prompts_per_rollout=9, **options, val_fraction=0.2).rollout_prompts(0)


def test_a_task_gives_more_prompts_than_the_pool_has(options: dict[str, Any]) -> None:
    task = ArithmeticTask(num_pool=40, num_test=20)
    data = RolloutDataModule(prompts_per_rollout=8, prompt_source="task", task=task, **options)
    asked = {prompt.item.prompt: prompt.item.answer for number in range(5) for prompt in data.rollout_prompts(number).prompts}
    assert asked == {item.prompt: item.answer for item in task.items("pool")}
    data.setup("fit")
    assert {example.row_number for example in data.dataset("train").examples} == set(range(10))
    with pytest.raises(ValueError, match="expected a task to take prompts from"):
        RolloutDataModule(prompt_source="task", **options)


def test_a_prompt_without_room_for_an_answer_is_named(options: dict[str, Any]) -> None:
    data = RolloutDataModule(prompts_per_rollout=2, max_new_tokens=30, max_length=39, **options)
    with pytest.raises(ValueError, match="within max_length = 39, got a prompt of 10 tokens"):
        data.rollout_prompts(0)


def test_the_loader_has_no_end_and_nothing_to_resume(options: dict[str, Any]) -> None:
    loader = RolloutDataModule(prompts_per_rollout=2, **options).train_dataloader()
    assert list(islice(loader, 5)) == [0] * 5
    loader.load_state_dict(loader.state_dict())


def test_ranked_data_has_the_pair_first_and_every_other_score(options: dict[str, Any]) -> None:
    data = PoolDataModule(num_ranked=16, **options)
    data.setup("fit")
    (batch, *_) = data.scoring_dataloader("train")
    first = batch.prompt_number == 0
    assert batch.roles[first].tolist() == [Role.CHOSEN, Role.REJECTED, Role.SAMPLE, Role.SAMPLE]
    assert batch.scores is not None
    assert batch.scores[first].tolist() == [5.0, 1.0, 3.0, 2.0]
    assert not any(map(math.isnan, batch.scores.tolist()))
    fewer = PoolDataModule(num_ranked=1, **options)
    fewer.setup("fit")
    assert next(iter(fewer.scoring_dataloader("train"))).num_sequences == 30
