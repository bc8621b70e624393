"""The pieces of a rollout against numbers worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, tensor

from lightning_modules.ppo.estimators import GAE, RLOO, Evidence, ReMax
from lightning_modules.ppo.health import events_of, explained_variance, kinds_of, repetition
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.objective import ppo_loss
from lightning_modules.ppo.rollout import Rollout, TokenTable, minibatch_plan
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.rewards.base import TotalRewards
from lightning_modules.token_stats import TokenStats
from tests.lightning_modules.ppo.rig import samples


def close(one: Tensor, other: list[float]) -> None:
    torch.testing.assert_close(one, tensor(other), atol=1e-6, rtol=1e-6)


def test_a_rising_kl_raises_an_adaptive_coefficient_by_no_more_than_a_fifth_a_horizon() -> None:
    penalty = KLPenalty(coefficient=0.1, target=2.0, horizon=100)
    assert penalty.updated(0.1, 2.2, 50) == pytest.approx(0.1 * (1 + 0.1 * 0.5))
    assert penalty.updated(0.1, 40.0, 50) == pytest.approx(0.1 * (1 + 0.2 * 0.5))
    assert penalty.updated(0.1, 0.0, 100) == pytest.approx(0.1 * 0.8)
    assert KLPenalty(coefficient=0.1).updated(0.1, 40.0, 50) == 0.1


def test_estimators_of_the_kl() -> None:
    logps, reference = tensor([-1.0, -1.0]), tensor([-1.5, -0.5])
    close(KLPenalty(estimator="k1").per_token(logps, reference), [0.5, -0.5])
    close(KLPenalty(estimator="k3").per_token(logps, reference), [0.10653066, 0.14872127])


EVIDENCE = Evidence(
    rewards=tensor([-0.1, 1.0, 0.5, 0.0, 0.0, 2.0]),
    lengths=tensor([2, 1, 3]),
    groups=tensor([0, 0, 1]),
    values=tensor([0.5, 0.25, 0.0, 1.0, 1.0, 1.0]),
    greedy_scores=tensor([0.4, 1.5]),
)


def test_gae_of_three_completions() -> None:
    advantages, returns = GAE(gamma=1.0, gae_lambda=0.5)(EVIDENCE)
    # Completion 0: delta = (-.1 + .25 - .5, 1 - .25) = (-.35, .75); A = (-.35 + .5 * .75, .75).
    # Completion 2: delta = (0, 0, 1); A = (.25, .5, 1).
    close(advantages, [0.025, 0.75, 0.5, 0.25, 0.5, 1.0])
    assert returns is not None
    close(returns, [0.525, 1.0, 0.5, 1.25, 1.5, 2.0])


def test_rloo_compares_with_the_others_of_the_prompt_alone() -> None:
    advantages, returns = RLOO()(EVIDENCE)
    close(advantages, [0.4, 0.4, -0.4, 0.0, 0.0, 0.0])
    assert returns is None


def test_remax_compares_with_the_greedy_completion() -> None:
    close(ReMax()(EVIDENCE)[0], [0.5, 0.5, 0.1, 0.5, 0.5, 0.5])


def test_explained_variance_is_one_for_a_perfect_critic_and_never_nan() -> None:
    returns = tensor([1.0, 2.0, 4.0])
    assert explained_variance(returns + 3, returns).item() == pytest.approx(1)
    assert explained_variance(torch.zeros(3), returns).item() == pytest.approx(0)
    assert explained_variance(tensor([0.0, 1.0, 0.0]), torch.ones(3)).item() == 0


def test_repetition_counts_four_grams_that_come_again() -> None:
    assert repetition([1, 2, 3]) == 0
    assert repetition([1, 2, 3, 4, 5]) == 0
    # Grams of 1 1 1 1 1 1: three times the same.
    assert repetition([1] * 6) == pytest.approx(2 / 3)


def test_kinds_tell_above_from_below_within_a_prompt() -> None:
    drawn = samples([[5, 0], [6, 0]], [[7, 0], [8, 0]])
    assert kinds_of(drawn, tensor([1.0, 0.0, 9.0, 9.0])) == (("sample_above", "sample_below"), ("sample", "sample"))


def test_events_are_named_and_counted() -> None:
    total = TotalRewards(tensor([0.5, torch.nan, 0.5]), torch.zeros(5), {}, Counter())
    assert events_of(samples([[5, 6], [0]], [[3, 4]]), total) == {"unscored": 1, "empty": 1, "constant_reward": 3}
    never = samples([[5, 6], [7]])
    assert events_of(never, TotalRewards(tensor([0.0, 1.0]), torch.zeros(3), {}, Counter())) == {"no_eos": 2}


def test_plans_see_every_prompt_once_an_epoch_in_an_order_of_its_own() -> None:
    plan = minibatch_plan(7, 2, 3, (5, 0))
    assert [len(part) for part in plan] == [3, 2, 2, 3, 2, 2]
    epochs = [[number for part in plan[first : first + 3] for number in part] for first in (0, 3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 2
    assert epochs[0] != epochs[1]
    assert minibatch_plan(7, 2, 3, (5, 1)) != plan == minibatch_plan(7, 2, 3, (5, 0))
    assert minibatch_plan(2, 1, 4, (0, 0)) in ([[0], [1]], [[1], [0]])


def rollout() -> Rollout:
    numbers = torch.arange(7.0)
    return Rollout(
        prompts=((1, 2), (3,)),
        completions=(((4, 5), (6,)), ((7, 8, 9), (0,))),
        kinds=(("sample_above", "sample_below"), ("sample", "sample")),
        table=TokenTable(numbers, 10 + numbers, 20 + numbers, 30 + numbers, 40 + numbers),
    )


def test_a_minibatch_has_the_rows_of_its_own_prompts_in_packing_order() -> None:
    batch, rows = rollout().pack([1, 0]), rollout().rows_of([1, 0])
    assert batch.target_ids.tolist() == [7, 8, 9, 0, 4, 5, 6]
    assert rows.tolist() == [3, 4, 5, 6, 0, 1, 2]
    assert batch.reference_token_logps is not None
    assert batch.reference_token_logps.tolist() == [13, 14, 15, 16, 10, 11, 12]
    assert batch.kinds == ("sample", "sample", "sample_above", "sample_below")


def test_a_rollout_comes_back_from_its_state() -> None:
    before, after = rollout(), Rollout.from_state(rollout().state_dict())
    assert (after.prompts, after.completions, after.kinds) == (before.prompts, before.completions, before.kinds)
    for name, column in before.table.columns().items():
        assert torch.equal(after.table.columns()[name], column)


def stats_of(logps: Tensor) -> TokenStats:
    zeros = torch.zeros(len(logps))
    return TokenStats(logps, zeros, zeros, zeros, zeros.bool(), zeros.long(), 1)


def test_both_losses_and_the_gradient_by_hand() -> None:
    """Ratios e^.5 (clipped at 1.2) and e^-.1 with advantages 2 and 1; a value that moved too far is held at the clip."""
    logps = tensor([-1.0, -2.0]).requires_grad_()
    values = tensor([1.0, 0.5]).requires_grad_()
    table = TokenTable(tensor([-1.5, -1.9]), torch.zeros(2), tensor([2.0, 1.0]), tensor([0.0, 0.5]), tensor([0.0, 1.0]))
    loss = ppo_loss(stats_of(logps), values, table, PPOSettings(value_coefficient=0.1))
    close(loss.policy.losses.detach(), [-2.4, -0.90483742])
    assert loss.value is not None
    # max(1^2, 0.2^2) / 2 and 0.5^2 / 2.
    close(loss.value.losses.detach(), [0.5, 0.125])
    assert loss.total.item() == pytest.approx(-3.30483742 + 0.0625)
    loss.total.backward()
    assert logps.grad is not None
    close(logps.grad, [0.0, -0.90483742])
