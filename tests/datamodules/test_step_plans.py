from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from datamodules.loading.lengths import Lengths
from datamodules.loading.sampler import StepPlan, evaluation_plan
from datamodules.loading.step_plans import FixedSizePlan, TokenBudgetPlan

BUDGET = 400


def make_lengths(seed: int, number: int = 101) -> Lengths:
    rows = np.random.default_rng([7, seed]).integers(5, 120, size=number)
    return Lengths(rows=rows, targets=rows // 2)


def fixed(lengths: Lengths, seed: int = 0, batch_size: int = 16, world: int = 2, accumulation: int = 3) -> FixedSizePlan:
    return FixedSizePlan(
        lengths, batch_size=batch_size, microbatches=world * accumulation, max_tokens=BUDGET, seed=seed, world_size=world
    )


def check_epoch(plan: StepPlan, lengths: Lengths, epoch: int) -> None:
    steps = plan.steps(epoch)
    seen = Counter(index for step in steps for microbatch in step for index in microbatch.indices)
    assert len(steps) == plan.steps_per_epoch
    assert max(seen.values()) == 1
    assert len(lengths.rows) - len(seen) == plan.num_left_out(epoch)
    for step in steps:
        indices = [index for microbatch in step for index in microbatch.indices]
        assert len(step) == plan.microbatches
        for microbatch in step:
            assert microbatch.indices
            assert sum(lengths.rows[list(microbatch.indices)]) <= BUDGET
            assert microbatch.share.prompts == len(indices)
            assert microbatch.share.targets == sum(lengths.targets[indices])
            assert microbatch.share.microbatches == plan.microbatches


@pytest.mark.parametrize("seed", range(6))
def test_fixed_size_plan_invariants(seed: int) -> None:
    lengths = make_lengths(seed)
    plan = fixed(lengths, seed)
    for epoch in range(3):
        check_epoch(plan, lengths, epoch)
        assert plan.num_left_out(epoch) == 101 % 16
        assert {sum(len(m.indices) for m in step) for step in plan.steps(epoch)} == {16}


@pytest.mark.parametrize("seed", range(6))
def test_token_budget_plan_invariants(seed: int) -> None:
    lengths = make_lengths(seed)
    plan = TokenBudgetPlan(lengths, microbatches=4, max_tokens=BUDGET, seed=seed)
    for epoch in range(3):
        check_epoch(plan, lengths, epoch)
    microbatches = [m for step in plan.steps(0) for m in step]
    mean_fill = np.mean([lengths.rows[list(m.indices)].sum() for m in microbatches]) / BUDGET
    assert mean_fill > 0.75


@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (2, 1), (1, 8), (4, 2), (8, 2)])
def test_a_step_holds_the_same_prompts_for_any_number_of_ranks(world: int, accumulation: int) -> None:
    lengths = make_lengths(3)
    steps = [
        [sorted(i for part in step for i in part) for step in fixed(lengths, world=w, accumulation=a).compositions(2)]
        for w, a in ((1, 6), (world, accumulation * (2 if world * accumulation < 5 else 1)))
    ]
    assert steps[0] == steps[1]


def test_every_prompt_is_as_likely_as_any_other_to_sit_out() -> None:
    lengths = Lengths(rows=np.arange(1, 12), targets=np.arange(1, 12))
    plan = FixedSizePlan(lengths, batch_size=4, microbatches=1, max_tokens=BUDGET, seed=0)
    used = Counter(index for epoch in range(600) for step in plan.compositions(epoch) for part in step for index in part)
    # Binomial(600, 8/11): mean 436.4, standard deviation 10.9.
    assert all(abs(used[index] - 600 * 8 / 11) < 5 * 10.9 for index in range(11))


def test_epochs_and_seeds_give_other_orders_and_the_same_seed_the_same() -> None:
    lengths = make_lengths(0)
    assert fixed(lengths).compositions(0) == fixed(lengths).compositions(0)
    assert fixed(lengths).compositions(0) != fixed(lengths).compositions(1)
    assert fixed(lengths).compositions(0) != fixed(lengths, seed=1).compositions(0)
    budget = [TokenBudgetPlan(lengths, microbatches=2, max_tokens=BUDGET, seed=seed) for seed in (0, 0, 1)]
    assert budget[0].compositions(0) == budget[1].compositions(0)
    assert budget[0].compositions(0) != budget[0].compositions(1)
    assert budget[0].compositions(0) != budget[2].compositions(0)


def test_steps_cost_about_the_same_and_microbatches_are_balanced() -> None:
    lengths = make_lengths(1, 320)
    steps = fixed(lengths).compositions(0)
    tokens = np.array([[lengths.rows[list(part)].sum() for part in step] for step in steps])
    shuffled = np.random.default_rng(0).permutation(320).reshape(-1, 16)
    assert tokens.sum(1).std() < 0.2 * lengths.rows[shuffled].sum(1).std()
    assert (tokens.max(1) / tokens.mean(1)).mean() < 1.25


def test_the_accumulation_that_the_error_names_does_and_one_less_does_not() -> None:
    lengths = make_lengths(2)
    with pytest.raises(ValueError, match="Set accumulate_grad_batches to") as caught:
        fixed(lengths, batch_size=48, world=2, accumulation=1)
    enough = int(re.findall(r"accumulate_grad_batches to (\d+)", str(caught.value))[0])
    plan = fixed(lengths, batch_size=48, world=2, accumulation=enough)
    for epoch in range(20):
        check_epoch(plan, lengths, epoch)
    with pytest.raises(ValueError, match=f"accumulate_grad_batches to {enough}"):
        fixed(lengths, batch_size=48, world=2, accumulation=enough - 1)


def test_plans_refuse_what_cannot_be_done() -> None:
    lengths = make_lengths(0)
    with pytest.raises(ValueError, match="at least batch_size = 200 prompts, got 101"):
        fixed(lengths, batch_size=200)
    with pytest.raises(ValueError, match="at least one prompt for each rank"):
        fixed(lengths, batch_size=4, world=8, accumulation=1)
    with pytest.raises(ValueError, match="at least 64 microbatches for one step"):
        TokenBudgetPlan(lengths, microbatches=64, max_tokens=BUDGET, seed=0)
    with pytest.raises(ValueError, match="fit max_tokens_per_batch = 100"):
        TokenBudgetPlan(lengths, microbatches=1, max_tokens=100, seed=0)


def test_fingerprint_follows_what_the_order_depends_on() -> None:
    lengths, longer = make_lengths(0), make_lengths(0, 102)
    assert fixed(lengths, world=1, accumulation=6).fingerprint() == fixed(lengths, world=2).fingerprint()
    others = [fixed(lengths, seed=1), fixed(lengths, batch_size=17), fixed(longer)]
    assert len({plan.fingerprint() for plan in [fixed(lengths), *others]}) == 4


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("number", [8, 9, 50, 101])
def test_evaluation_sees_every_example_once_in_order(world: int, number: int) -> None:
    rows = make_lengths(number, number).rows
    plan = evaluation_plan(rows, max_tokens=BUDGET, world_size=world)
    assert [index for part in plan for index in part] == list(range(number))
    assert all(plan)
    assert len(plan) % world == 0
    assert max(rows[list(part)].sum() for part in plan) <= BUDGET


def test_evaluation_refuses_fewer_examples_than_ranks() -> None:
    with pytest.raises(ValueError, match="each of 4 ranks, got 3"):
        evaluation_plan(np.array([1, 1, 1]), max_tokens=10, world_size=4)
