"""Losses that must be the same loss, or a scaled one, where their definitions meet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_modules.losses.ada_dpo import AdaDPOLoss
from lightning_modules.losses.alpha_po import AlphaPOLoss
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps, incentives
from lightning_modules.losses.bdpo import BDPOLoss
from lightning_modules.losses.beta_dpo import BetaDPOLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.convex import Hinge, Logistic, Square
from lightning_modules.losses.cpo import CPOLoss
from lightning_modules.losses.divergences import Alpha, ForwardKL, ReverseKL
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.dpo_shift import DPOShiftLoss
from lightning_modules.losses.dpop import DPOPLoss
from lightning_modules.losses.f_dpo import FDPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.gated import GatedLoss
from lightning_modules.losses.gpo import GPOLoss
from lightning_modules.losses.hinge import HingeLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.odpo import ODPOLoss
from lightning_modules.losses.r_dpo import RDPOLoss
from lightning_modules.losses.robust_dpo import RobustDPOLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.losses.slic import SLiCLoss
from lightning_modules.losses.sppo import SPPOLoss
from tests.lightning_modules.losses.cases import random_logps

# (special case, the loss it must equal, factor on the latter, relative tolerance)
SAME: list[tuple[PreferenceLoss, PreferenceLoss, float, float]] = [
    (FlexDPOLoss(beta_chosen=0.3, beta_rejected=0.3), DPOLoss(beta=0.3), 1, 1e-12),
    (SFTDPOLoss(gamma=0.0), DPOLoss(), 1, 1e-12),
    (GPOLoss(function=Logistic()), DPOLoss(), 1, 1e-12),
    (GPOLoss(function=Hinge()), HingeLoss(), 1, 1e-12),
    (GPOLoss(beta=0.4, function=Square()), IPOLoss(eta=0.2), 0.16, 1e-12),
    (RobustDPOLoss(label_smoothing=0.0), DPOLoss(), 1, 1e-12),
    (FDPOLoss(divergence=ReverseKL()), DPOLoss(), 1, 1e-12),
    (FDPOLoss(divergence=Alpha(alpha=1e-9)), DPOLoss(), 1, 1e-7),
    (FDPOLoss(divergence=Alpha(alpha=1 - 1e-9)), FDPOLoss(divergence=ForwardKL()), 1, 1e-6),
    (DPOPLoss(beta=0.1, penalty=0.0), DPOLoss(), 1, 1e-12),
    (ODPOLoss(alpha=0.0), DPOLoss(), 1, 1e-12),
    (RDPOLoss(alpha=0.0), DPOLoss(), 1, 1e-12),
    (BDPOLoss(mixture=1 - 1e-12), DPOLoss(), 1, 1e-7),
    (DPOShiftLoss(shift=1.0), DPOLoss(), 1, 1e-12),
    (DPOShiftLoss(beta=0.3, shift=0.5), FlexDPOLoss(beta_chosen=0.3, beta_rejected=0.15), 1, 1e-12),
    (BetaDPOLoss(alpha=0.0, kept_share=1.0), DPOLoss(), 1, 1e-12),
    (AlphaPOLoss(beta=2.0, gamma=1.0, alpha=1e-9), SimPOLoss(), 1, 1e-6),
    (GatedLoss(sharpness=1e4, threshold=0.0), DPOLoss(), 1, 1e-12),
    (CalibratedLoss(), DPOLoss(), 1, 1e-12),
    (CalibratedLoss(loss=CalibratedLoss(gain=1.5), gain=0.8), CalibratedLoss(gain=1.2), 1, 1e-12),
]


@pytest.mark.parametrize(("special", "general", "factor", "rtol"), SAME, ids=[f"{a} = {b}" for a, b, _, _ in SAME])
def test_same_values_and_incentives(special: PreferenceLoss, general: PreferenceLoss, factor: float, rtol: float) -> None:
    logps = random_logps(seed=2)
    torch.testing.assert_close(special(logps).losses, factor * general(logps).losses, rtol=rtol, atol=1e-12)
    for ours, theirs in zip(incentives(special, logps), incentives(general, logps), strict=True):
        torch.testing.assert_close(ours, factor * theirs, rtol=rtol, atol=1e-12)


def test_dpo_shift_is_flex_dpo_with_a_scaled_rejected_beta() -> None:
    logps, f = random_logps(seed=2), 0.75
    h_w, h_l = logps.logratios()
    expected = torch.log1p(torch.exp(-0.1 * (h_w - f * h_l)))
    torch.testing.assert_close(FlexDPOLoss(beta_rejected=f * 0.1)(logps).losses, expected)


def test_cpo_is_dpo_under_a_uniform_reference_without_its_likelihood_term() -> None:
    logps = random_logps(seed=2)
    uniform = replace(logps, reference_chosen=torch.full((16,), -7.0), reference_rejected=torch.full((16,), -7.0))
    torch.testing.assert_close(CPOLoss(weight=0.0)(logps).losses, DPOLoss()(uniform).losses)


def test_simpo_on_one_token_without_margin_is_cpo_without_its_likelihood_term() -> None:
    logps = _one_token(random_logps(seed=2))
    expected = CPOLoss(beta=2.0, weight=0.0)(logps)
    torch.testing.assert_close(SimPOLoss(beta=2.0, gamma=0.0)(logps).losses, expected.losses)


def test_ipo_averages_equal_sums_on_one_token() -> None:
    logps = _one_token(random_logps(seed=2))
    torch.testing.assert_close(IPOLoss(per_token=True)(logps).losses, IPOLoss()(logps).losses)


def test_slic_without_likelihood_term_is_a_hinge_under_a_uniform_reference() -> None:
    logps = random_logps(seed=2)
    uniform = replace(logps, reference_chosen=torch.zeros(16), reference_rejected=torch.zeros(16))
    torch.testing.assert_close(SLiCLoss(delta=1.0, eta=0.0)(logps).losses, HingeLoss(beta=1.0)(uniform).losses)


def test_sppo_targets_are_reached_without_gradient() -> None:
    logps = random_logps(seed=2)
    reference_chosen, reference_rejected = logps.reference()
    at_target = replace(logps, policy_chosen=reference_chosen + 5, policy_rejected=reference_rejected - 5)
    d_w, d_l = incentives(SPPOLoss(beta=0.1), at_target)
    torch.testing.assert_close(d_w, torch.zeros_like(d_w), rtol=0, atol=1e-12)
    torch.testing.assert_close(d_l, torch.zeros_like(d_l), rtol=0, atol=1e-12)


def test_robust_dpo_is_unbiased_under_flips() -> None:
    logps, e = random_logps(seed=2), 0.2
    noisy = RobustDPOLoss(label_smoothing=e)
    expected = (1 - e) * noisy(logps).losses + e * noisy(_flipped(logps)).losses
    torch.testing.assert_close(expected, DPOLoss()(logps).losses)


def test_cdpo_is_dpo_averaged_over_flips() -> None:
    logps, e = random_logps(seed=2), 0.2
    expected = (1 - e) * DPOLoss()(logps).losses + e * DPOLoss()(_flipped(logps)).losses
    torch.testing.assert_close(DPOLoss(label_smoothing=e)(logps).losses, expected)


def test_ada_dpo_undoes_corollary_1() -> None:
    logps = _one_token(replace(random_logps(seed=2), policy_chosen=torch.linspace(-2, -1, 16).double()))
    logps = replace(logps, policy_rejected=logps.policy_chosen - torch.linspace(-0.6, 0.6, 16).double())
    d_w, d_l = incentives(AdaDPOLoss(max_ratio=2.0), logps)
    torch.testing.assert_close(d_w / logps.policy_chosen.exp(), d_l / logps.policy_rejected.exp())


def test_calibrated_dpo_pulls_as_flex_dpo_does_where_training_starts() -> None:
    logps = random_logps(seed=2)
    start = replace(logps, reference_chosen=logps.policy_chosen, reference_rejected=logps.policy_rejected)
    calibrated = incentives(CalibratedLoss(loss=DPOLoss(beta=0.1), gain=1.25), start)
    flex = incentives(FlexDPOLoss(beta_chosen=0.125, beta_rejected=0.08), start)
    for ours, theirs in zip(calibrated, flex, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_calibrated_loss_keeps_the_values_to_the_bit() -> None:
    logps = random_logps(dtype=torch.float32)
    for ours, theirs in zip(CalibratedLoss(gain=1.7)(logps), DPOLoss()(logps), strict=True):
        assert torch.equal(ours, theirs)


def _one_token(logps: SequenceLogps) -> SequenceLogps:
    ones = torch.ones_like(logps.chosen_lengths)
    return replace(logps, chosen_lengths=ones, rejected_lengths=ones)


def _flipped(logps: SequenceLogps) -> SequenceLogps:
    reference_chosen, reference_rejected = logps.reference()
    return replace(
        logps,
        policy_chosen=logps.policy_rejected,
        policy_rejected=logps.policy_chosen,
        reference_chosen=reference_rejected,
        reference_rejected=reference_chosen,
    )
