from __future__ import annotations

import pytest
import torch

from lightning_modules.ppo.advantages import generalized_advantages, leave_one_out_advantages, whiten


def test_gae_equals_hand_computed_values_for_two_completions() -> None:
    # Completion 1: r = [1, 0, 2], V = [0.5, 1, -1]; gamma = 0.9, lambda = 0.5.
    #   delta = [1 + .9*1 - .5, 0 + .9*-1 - 1, 2 - -1] = [1.4, -1.9, 3]
    #   A_2 = 3, A_1 = -1.9 + .45*3 = -0.55, A_0 = 1.4 + .45*-0.55 = 1.1525
    # Completion 2: r = [4], V = [1]: A = 3.
    rewards = torch.tensor([1.0, 0.0, 2.0, 4.0])
    values = torch.tensor([0.5, 1.0, -1.0, 1.0])
    advantages, returns = generalized_advantages(rewards, values, torch.tensor([3, 1]), gamma=0.9, gae_lambda=0.5)
    torch.testing.assert_close(advantages, torch.tensor([1.1525, -0.55, 3.0, 3.0]))
    torch.testing.assert_close(returns, torch.tensor([1.6525, 0.45, 2.0, 4.0]))


def test_lambda_one_is_the_reward_to_go_minus_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4, 1, 7, 2])
    rewards, values = torch.randn(14, generator=generator), torch.randn(14, generator=generator)
    advantages, returns = generalized_advantages(rewards, values, lengths, gamma=0.97, gae_lambda=1.0)
    expected = []
    for part in rewards.split(lengths.tolist()):
        expected += [sum(0.97 ** (k - t) * part[k] for k in range(t, len(part))) for t in range(len(part))]
    torch.testing.assert_close(returns, torch.stack(expected))
    torch.testing.assert_close(advantages, torch.stack(expected) - values)


def test_gae_refuses_padded_values() -> None:
    with pytest.raises(ValueError, match=r"expected values of shape \[3\].*got \[2, 2\]"):
        generalized_advantages(torch.zeros(3), torch.zeros(2, 2), torch.tensor([2, 1]))


def test_rloo_subtracts_the_others_of_the_prompt() -> None:
    scores = torch.tensor([1.0, 2.0, 6.0, 5.0, 3.0, 1.0])
    groups = torch.tensor([0, 0, 0, 1, 2, 2])
    torch.testing.assert_close(leave_one_out_advantages(scores, groups), torch.tensor([-3.0, -1.5, 4.5, 0.0, 2.0, -2.0]))


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_keeps_or_removes_the_mean(shift_mean: bool) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, biased variance 3.5
    expected = (values - 3) / 3.5**0.5 + (0 if shift_mean else 3)
    torch.testing.assert_close(whiten(values, shift_mean=shift_mean), expected)
