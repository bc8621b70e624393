"""The paper's gradients in the probability coordinate (arXiv 2406.07327, Section 3.1 and Appendix B), by autograd through log."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules.losses.base import PreferenceLoss, SequenceLogps
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.losses.slic import SLiCLoss

REFERENCE_CHOSEN, REFERENCE_REJECTED = 0.12, 0.02
"""The toy's initial probabilities."""
PROBABILITIES = [(0.12, 0.02), (0.5, 0.3), (0.9, 1e-4), (1e-3, 0.8)]
VANISHING = 1e-250
"""pi- small enough that the relative error of the asymptotic forms, of order (pi-)^beta, is below 1e-15."""

probabilities = pytest.mark.parametrize(("chosen", "rejected"), PROBABILITIES)


def loss_and_gradients(loss: PreferenceLoss, chosen: float, rejected: float) -> tuple[float, float, float]:
    """The loss of one pair of one-token completions, dl/dpi+ and dl/dpi-."""
    pi = torch.tensor([[chosen], [rejected]], dtype=torch.float64, requires_grad=True)
    logps = SequenceLogps(
        policy_chosen=pi[0].log(),
        policy_rejected=pi[1].log(),
        chosen_lengths=torch.ones(1, dtype=torch.int64),
        rejected_lengths=torch.ones(1, dtype=torch.int64),
        reference_chosen=_log(REFERENCE_CHOSEN),
        reference_rejected=_log(REFERENCE_REJECTED),
    )
    losses = loss(logps).losses
    (gradient,) = torch.autograd.grad(losses.sum(), pi)
    return losses.item(), gradient[0].item(), gradient[1].item()


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-10, abs=0)


@probabilities
def test_equation_6_and_its_two_gradients(chosen: float, rejected: float) -> None:
    beta = 0.1
    alpha, z = (REFERENCE_CHOSEN / REFERENCE_REJECTED) ** beta, rejected / chosen
    factor = alpha * beta * z ** (beta - 1) / (1 + alpha * z**beta)
    loss, d_chosen, d_rejected = loss_and_gradients(DPOLoss(beta=beta), chosen, rejected)
    assert loss == close(torch.log1p(torch.tensor(alpha * z**beta, dtype=torch.float64)).item())
    assert d_chosen == close(-factor * rejected / chosen**2)
    assert d_rejected == close(factor / chosen)


@probabilities
def test_corollary_1(chosen: float, rejected: float) -> None:
    _, d_chosen, d_rejected = loss_and_gradients(DPOLoss(), chosen, rejected)
    assert d_rejected / d_chosen == close(-chosen / rejected)


@probabilities
def test_corollary_1_generalised_to_flex(chosen: float, rejected: float) -> None:
    loss = FlexDPOLoss(beta_chosen=0.1, beta_rejected=0.03)
    _, d_chosen, d_rejected = loss_and_gradients(loss, chosen, rejected)
    assert d_rejected / d_chosen == close(-(0.03 / 0.1) * chosen / rejected)


def test_corollary_2() -> None:
    beta, chosen = 0.1, 0.5
    alpha = (REFERENCE_CHOSEN / REFERENCE_REJECTED) ** beta
    _, d_chosen, d_rejected = loss_and_gradients(DPOLoss(beta=beta), chosen, VANISHING)
    assert d_chosen == close(-alpha * beta * chosen ** (-beta - 1) * VANISHING**beta)
    assert d_rejected == close(alpha * beta * chosen**-beta * VANISHING ** (beta - 1))
    assert abs(d_chosen) < 1e-24
    assert d_rejected > 1e200


def test_flex_asymptotics() -> None:
    beta_chosen, beta_rejected, chosen = 0.1, 0.08, 0.5
    alpha = REFERENCE_CHOSEN**beta_chosen / REFERENCE_REJECTED**beta_rejected
    loss = FlexDPOLoss(beta_chosen=beta_chosen, beta_rejected=beta_rejected)
    _, d_chosen, d_rejected = loss_and_gradients(loss, chosen, VANISHING)
    assert d_chosen == close(-alpha * beta_chosen * chosen ** (-beta_chosen - 1) * VANISHING**beta_rejected)
    assert d_rejected == close(alpha * beta_rejected * chosen**-beta_chosen * VANISHING ** (beta_rejected - 1))


@probabilities
def test_sft_dpo_adds_gamma_over_pi_to_the_chosen_gradient_only(chosen: float, rejected: float) -> None:
    _, dpo_chosen, dpo_rejected = loss_and_gradients(DPOLoss(), chosen, rejected)
    _, d_chosen, d_rejected = loss_and_gradients(SFTDPOLoss(gamma=0.05), chosen, rejected)
    assert d_chosen == close(dpo_chosen - 0.05 / chosen)
    assert d_rejected == close(dpo_rejected)


def test_sft_dpo_keeps_pulling_the_chosen_side() -> None:
    _, d_chosen, _ = loss_and_gradients(SFTDPOLoss(gamma=0.05), 0.5, VANISHING)
    assert d_chosen == close(-0.05 / 0.5)


@probabilities
def test_ipo_gradients(chosen: float, rejected: float) -> None:
    eta = 0.1
    h = float(_log(chosen * REFERENCE_REJECTED / (rejected * REFERENCE_CHOSEN)))
    loss, d_chosen, d_rejected = loss_and_gradients(IPOLoss(eta=eta), chosen, rejected)
    assert loss == close((h - 1 / (2 * eta)) ** 2)
    assert d_chosen == close(2 * (h - 1 / (2 * eta)) / chosen)
    assert d_rejected == close(-2 * (h - 1 / (2 * eta)) / rejected)


@pytest.mark.parametrize(("rejected", "active"), [(0.02, 1.0), (1e-4, 0.0)])
def test_slic_gradients(rejected: float, active: float) -> None:
    chosen = 0.5
    _, d_chosen, d_rejected = loss_and_gradients(SLiCLoss(delta=5.0, eta=0.1), chosen, rejected)
    assert d_chosen == close(-(active + 0.1) / chosen)
    assert d_rejected == close(active / rejected)


def _log(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64).log()
