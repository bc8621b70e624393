from __future__ import annotations

import math

import pytest
import torch

from lightning_modules.ppo.clipped import clipped_policy_loss, clipped_value_loss
from lightning_modules.ppo.kl import k1, k2, k3


def test_policy_loss_equals_hand_computed_values_in_all_four_cases() -> None:
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 3.0])
    logps = ratios.log().requires_grad_()
    loss = clipped_policy_loss(logps, torch.zeros(5), advantages, clip_range=0.2)
    # A > 0: the gain is capped at 1.2 but a fall is not; A < 0: a fall is capped at 0.8 but a rise is not.
    torch.testing.assert_close(loss.losses, torch.tensor([-2.4, -1.0, 3.0, 1.6, -3.3]))
    assert loss.clipped.tolist() == [True, False, False, True, False]
    loss.losses.sum().backward()
    torch.testing.assert_close(logps.grad, torch.tensor([0.0, -1.0, 3.0, 0.0, -3.3]))


def test_value_loss_equals_hand_computed_values() -> None:
    values = torch.tensor([1.5, 1.1, 1.5], requires_grad=True)
    loss = clipped_value_loss(values, torch.ones(3), torch.tensor([2.0, 2.0, 1.0]), clip_range=0.2)
    # Clipped values are 1.2, 1.1, 1.2: squared errors (0.64, 0.81, 0.04) against (0.25, 0.81, 0.25).
    torch.testing.assert_close(loss.losses, torch.tensor([0.32, 0.405, 0.125]))
    assert loss.clipped.tolist() == [True, False, False]
    loss.losses.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([0.0, -0.9, 0.5]))


def test_arguments_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'old_logps': \[2\]"):
        clipped_policy_loss(torch.zeros(3), torch.zeros(2), torch.zeros(3))


def test_kl_estimators_average_to_the_exact_kl() -> None:
    pi, pi0 = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    exact = (pi * (pi / pi0).log()).sum().item()
    assert (pi * k1(pi.log(), pi0.log())).sum().item() == pytest.approx(exact, rel=1e-12)
    assert (pi * k3(pi.log(), pi0.log())).sum().item() == pytest.approx(exact, rel=1e-12)
    assert (k3(pi.log(), pi0.log()) >= 0).all()
    torch.testing.assert_close(k2(pi.log(), pi0.log())[0].item(), 0.5 * math.log(3.5) ** 2)
