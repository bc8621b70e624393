from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.loading.loader import EvaluationLoader, ResumableLoader, SplitDataset
from datamodules.loading.sampler import StepPlan
from datamodules.loading.step_plans import FixedSizePlan, TokenBudgetPlan
from datamodules.sources.store import ExampleStore

# Python 3.12 warns of every fork of a process with threads, which torch's own data workers are.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make_dataset(number: int = 30) -> SplitDataset:
    generator = np.random.default_rng(0)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(generator.integers(100, size=generator.integers(1, most)).tolist())

    pairs = [
        Example(
            ids(9),
            (TokenizedCompletion(ids(7), Role.CHOSEN, "chosen"), TokenizedCompletion(ids(7), Role.REJECTED, "rejected")),
            row,
        )
        for row in range(number)
    ]
    return SplitDataset(ExampleStore.of(pairs))


def make_plan(dataset: SplitDataset, *, batch_size: int | None = 7, microbatches: int = 2, seed: int = 0) -> StepPlan:
    if batch_size is None:
        return TokenBudgetPlan(dataset.lengths, microbatches=microbatches, max_tokens=60, seed=seed)
    return FixedSizePlan(dataset.lengths, batch_size=batch_size, microbatches=microbatches, max_tokens=200, seed=seed)


def equal(first: CompletionBatch, second: CompletionBatch) -> bool:
    def same(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b

    return all(same(getattr(first, f.name), getattr(second, f.name)) for f in fields(CompletionBatch))


def take(batches: Iterator[CompletionBatch], number: int) -> list[CompletionBatch]:
    return [next(batches) for _ in range(number)]


@pytest.mark.parametrize("batch_size", [7, None])
@pytest.mark.parametrize(("workers", "stop"), [(0, 0), (0, 1), (0, 5), (0, 8), (2, 3), (2, 8)])
def test_a_restored_loader_goes_on_bit_for_bit_into_the_next_epochs(workers: int, stop: int, batch_size: int | None) -> None:
    dataset = make_dataset()
    plan = make_plan(dataset, batch_size=batch_size)
    whole = ResumableLoader(dataset, plan)
    expected = [batch for _ in range(3) for batch in whole]
    stop = min(stop, len(whole))

    interrupted = ResumableLoader(dataset, plan, num_workers=workers)
    before = take(iter(interrupted), stop)
    resumed = ResumableLoader(make_dataset(), make_plan(dataset, batch_size=batch_size), num_workers=workers)
    resumed.load_state_dict(interrupted.state_dict())
    epochs_left = 3 if stop < len(whole) else 2
    after = [batch for _ in range(epochs_left) for batch in resumed]
    assert len(before) == stop
    assert len(expected) == 3 * len(whole) == len(before) + len(after)
    assert all(equal(a, b) for a, b in zip(expected, before + after, strict=True))


def test_iterating_twice_without_taking_a_batch_changes_nothing() -> None:
    dataset = make_dataset()
    loader = ResumableLoader(dataset, make_plan(dataset))
    iter(loader)
    first = iter(loader)
    assert equal(next(first), next(iter(ResumableLoader(dataset, make_plan(dataset)))))
    assert loader.state_dict()["position"] == 1


def test_an_announced_epoch_ends_the_one_that_has_begun_and_no_other() -> None:
    dataset = make_dataset()
    loader = ResumableLoader(dataset, make_plan(dataset))
    take(iter(loader), 3)
    loader.sampler.set_epoch(0)
    assert loader.state_dict()["position"] == 3
    for epoch in (1, 2):
        loader.sampler.set_epoch(epoch)
        assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)
    fresh = ResumableLoader(dataset, make_plan(dataset))
    second_epoch = [list(fresh) for _ in range(2)][1]
    assert all(equal(a, b) for a, b in zip(loader, second_epoch, strict=True))


def test_starting_an_epoch_leaves_the_global_random_state_alone() -> None:
    dataset = make_dataset()
    state = torch.get_rng_state()
    take(iter(ResumableLoader(dataset, make_plan(dataset))), 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_size", [8, None])
def test_ranks_share_a_step_without_overlap(batch_size: int | None) -> None:
    dataset = make_dataset()
    plan = make_plan(dataset, batch_size=batch_size, microbatches=4)
    ranks = [list(ResumableLoader(dataset, plan, rank=rank, world_size=2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 2 * plan.steps_per_epoch
    for step in range(plan.steps_per_epoch):
        mine = [batch for rank in ranks for batch in rank[2 * step : 2 * step + 2]]
        examples = [index for batch in mine for index in batch.example_index.unique().tolist()]
        planned = [index for microbatch in plan.steps(0)[step] for index in microbatch.indices]
        assert sorted(examples) == sorted(planned)
        assert {(batch.share.prompts, batch.share.targets, batch.share.microbatches) for batch in mine} == {
            (len(planned), sum(batch.num_targets for batch in mine), 4)
        }


def test_a_position_in_another_order_is_refused() -> None:
    dataset = make_dataset()
    state = ResumableLoader(dataset, make_plan(dataset)).state_dict()
    for plan in (make_plan(dataset, seed=1), make_plan(dataset, batch_size=6)):
        with pytest.raises(ValueError, match="a checkpoint written with this data and order"):
            ResumableLoader(dataset, plan).load_state_dict(state)
    other = make_dataset(31)
    with pytest.raises(ValueError, match="start a new run from its weights"):
        ResumableLoader(other, make_plan(other)).load_state_dict(state)


def test_a_position_is_good_for_another_number_of_ranks() -> None:
    dataset = make_dataset()
    one = ResumableLoader(dataset, make_plan(dataset, microbatches=1))
    take(iter(one), 2)
    two = ResumableLoader(dataset, make_plan(dataset, microbatches=2), rank=1, world_size=2)
    two.load_state_dict(one.state_dict())
    third_step = make_plan(dataset, microbatches=1).steps(0)[2][0].indices
    assert set(next(iter(two)).example_index.tolist()) < set(third_step)
    cut_in_three = ResumableLoader(dataset, make_plan(dataset, microbatches=3))
    cut_in_three.load_state_dict(one.state_dict())
    batches = iter(cut_in_three)
    seen = [index for _ in range(3) for index in next(batches).example_index.tolist()]
    assert set(seen) == set(third_step)


@pytest.mark.parametrize("workers", [0, 2])
def test_reference_log_probs_set_after_iter_reach_every_batch(workers: int) -> None:
    dataset = make_dataset()
    targets = int(dataset.lengths.targets.sum())
    loader = ResumableLoader(dataset, make_plan(dataset), num_workers=workers)
    evaluation = EvaluationLoader(dataset, [(0, 1, 2), (3,)], num_workers=workers)
    iterators = [iter(loader), iter(evaluation)]
    dataset.set_reference(-torch.arange(targets, dtype=torch.float64))
    first_target = np.concatenate([[0], dataset.lengths.targets.cumsum()])
    for batch in (batch for iterator in iterators for batch in iterator):
        assert batch.reference_token_logps is not None
        indices = list(dict.fromkeys(batch.example_index.tolist()))
        expected = [-float(target) for index in indices for target in range(first_target[index], first_target[index + 1])]
        assert batch.reference_token_logps.dtype == torch.float32
        assert batch.reference_token_logps.tolist() == expected


def test_reference_log_probs_of_other_data_are_refused() -> None:
    with pytest.raises(ValueError, match="reference log-probs for the split"):
        make_dataset().set_reference(torch.zeros(3))
