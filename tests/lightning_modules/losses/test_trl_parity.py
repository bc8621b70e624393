"""Values and gradients equal TRL's own, within 1e-6 in float64, for every loss both have.

No counterpart in TRL 1.16: Flex-DPO, SLiC with its likelihood term, DPOP, ODPO, R-DPO, Cal-DPO, BDPO, BPO, AdaDPO,
DPO-Shift, beta-DPO, chi-PO, IS-DAA, Gate-DPO. `test_trl_tokens.py` has those that read tokens or the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_modules.losses.alpha_po import AlphaPOLoss
from lightning_modules.losses.apo_down import APODownLoss
from lightning_modules.losses.apo_zero import APOZeroLoss
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps
from lightning_modules.losses.bco import BCOLoss
from lightning_modules.losses.chosen_sft import ChosenSFTLoss
from lightning_modules.losses.convex import Hinge, Logistic, Square
from lightning_modules.losses.cpo import CPOLoss
from lightning_modules.losses.discopop import DiscoPOPLoss
from lightning_modules.losses.divergences import Alpha, ForwardKL, JensenShannon, ReverseKL
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.exo import EXOLoss
from lightning_modules.losses.f_dpo import FDPOLoss
from lightning_modules.losses.gpo import GPOLoss
from lightning_modules.losses.hinge import HingeLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.losses.ln_dpo import LNDPOLoss
from lightning_modules.losses.nca import NCALoss
from lightning_modules.losses.orpo import ORPOLoss
from lightning_modules.losses.robust_dpo import RobustDPOLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.losses.slic import SLiCLoss
from lightning_modules.losses.sppo import SPPOLoss
from lightning_modules.losses.terms import mean_logps
from tests.lightning_modules.losses.cases import random_logps
from tests.lightning_modules.losses.trl_stand_ins import (
    cpo_trainer_losses,
    cpo_trainer_total,
    dpo_trainer_losses,
    kto_trainer_losses,
    orpo_trainer_odds_ratio_term,
)

Theirs = Callable[[SequenceLogps], Tensor]


def dpo(*loss_types: str, **settings: object) -> Theirs:
    """Of `DPOTrainer._compute_loss`."""
    return lambda logps: dpo_trainer_losses(logps, *loss_types, **settings)  # type: ignore[arg-type]


def cpo(loss_type: str, sides: Callable[[SequenceLogps], tuple[Tensor, Tensor]], **settings: float) -> Theirs:
    """Of `CPOTrainer.cpo_loss`, on log-ratios, sums or averages as its callers choose."""

    def theirs(logps: SequenceLogps) -> Tensor:
        chosen, rejected = sides(logps)
        return cpo_trainer_losses(chosen, rejected, loss_type, **settings)

    return theirs


def sums(logps: SequenceLogps) -> tuple[Tensor, Tensor]:
    return logps.policy_chosen, logps.policy_rejected


def kto(logps: SequenceLogps) -> Tensor:
    """Both halves of KTO, each under the other half's mean log-ratio as its KL estimate."""
    h_w, h_l = logps.logratios()
    chosen_half = kto_trainer_losses(logps, 0.1, h_l.mean().detach(), 1.5, 0.0)
    return chosen_half + kto_trainer_losses(logps, 0.1, h_w.mean().detach(), 0.0, 0.5)


PAIRED: list[tuple[PreferenceLoss, Theirs]] = [
    (DPOLoss(beta=0.2), dpo("sigmoid", beta=0.2)),
    (DPOLoss(label_smoothing=0.2), cpo("sigmoid", SequenceLogps.logratios, label_smoothing=0.2)),
    (SFTDPOLoss(gamma=0.3, per_token=True), dpo("sigmoid", "sft", weights=(1.0, 0.3))),
    (ChosenSFTLoss(per_token=True), dpo("sft")),
    (IPOLoss(eta=0.2, per_token=True), dpo("ipo", beta=0.2)),
    (IPOLoss(eta=0.2), cpo("ipo", SequenceLogps.logratios, beta=0.2)),
    (SLiCLoss(delta=1.0, eta=0.0), cpo("hinge", sums, beta=1.0)),
    (HingeLoss(beta=0.3), dpo("hinge", beta=0.3)),
    (GPOLoss(function=Logistic()), dpo("sigmoid")),
    (GPOLoss(beta=0.3, function=Hinge()), dpo("hinge", beta=0.3)),
    (GPOLoss(beta=0.4, function=Square()), lambda logps: 0.16 * cpo("ipo", SequenceLogps.logratios, beta=0.2)(logps)),
    (KTOLoss(desirable_weight=1.5, undesirable_weight=0.5), kto),
    (NCALoss(beta=0.2), dpo("nca_pair", beta=0.2)),
    (LNDPOLoss(beta=2.0), dpo("sigmoid_norm", beta=2.0)),
    (AlphaPOLoss(beta=2.0, gamma=0.3, alpha=0.4), cpo("simpo", mean_logps, beta=2.0, simpo_gamma=0.3, alpha=0.4)),
    (SimPOLoss(beta=2.5, gamma=0.7), cpo("simpo", mean_logps, beta=2.5, simpo_gamma=0.7)),
    (CPOLoss(beta=0.2, weight=0.0), cpo("sigmoid", sums, beta=0.2)),
    (CPOLoss(beta=0.2, weight=0.7, per_token=True), lambda logps: cpo_trainer_total(logps, 0.2, 0.7)),
    (RobustDPOLoss(beta=0.2, label_smoothing=0.15), dpo("robust", beta=0.2, label_smoothing=0.15)),
    (APOZeroLoss(beta=0.2), dpo("apo_zero", beta=0.2)),
    (APODownLoss(beta=0.2), dpo("apo_down", beta=0.2)),
    (BCOLoss(beta=0.2), dpo("bco_pair", beta=0.2)),
    (SPPOLoss(beta=0.05), dpo("sppo_hard", beta=0.05)),
    (FDPOLoss(beta=0.2, divergence=ReverseKL()), dpo("sigmoid", beta=0.2, f_divergence_type="reverse_kl")),
    (FDPOLoss(beta=0.2, divergence=ForwardKL()), dpo("sigmoid", beta=0.2, f_divergence_type="forward_kl")),
    (FDPOLoss(beta=0.2, divergence=JensenShannon()), dpo("sigmoid", beta=0.2, f_divergence_type="js_divergence")),
    (EXOLoss(beta=0.2, label_smoothing=0.01), dpo("exo_pair", beta=0.2, label_smoothing=0.01)),
    (DiscoPOPLoss(beta=0.2, tau=0.1), dpo("discopop", beta=0.2, discopop_tau=0.1)),
]

# TRL clamps alpha divergences by a table without float64, and casts ORPO's log-probs to float32.
SINGLE_PRECISION: list[tuple[PreferenceLoss, Theirs]] = [
    (
        FDPOLoss(beta=0.2, divergence=Alpha(alpha=0.3)),
        dpo("sigmoid", beta=0.2, f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.7),
    ),
    (
        ORPOLoss(weight=0.3),
        # The likelihood term is ours: TRL's runs over the prompt too (orpo_trainer.py, "over the full prompt and response").
        lambda logps: -mean_logps(logps)[0] - orpo_trainer_odds_ratio_term(*mean_logps(logps), 0.3),
    ),
]


@pytest.mark.parametrize(("loss", "theirs"), PAIRED, ids=[str(loss) for loss, _ in PAIRED])
def test_equals_trl(loss: PreferenceLoss, theirs: Theirs) -> None:
    _compare(loss, theirs, torch.float64, 1e-6)


@pytest.mark.parametrize(("loss", "theirs"), SINGLE_PRECISION, ids=[str(loss) for loss, _ in SINGLE_PRECISION])
def test_equals_trl_in_its_own_precision(loss: PreferenceLoss, theirs: Theirs) -> None:
    _compare(loss, theirs, torch.float32, 1e-5)


def _compare(loss: PreferenceLoss, theirs: Theirs, dtype: torch.dtype, tolerance: float) -> None:
    logps = random_logps(pairs=8, dtype=dtype, seed=3)
    ours, our_gradients = _values_and_gradients(lambda given: loss(given).losses, logps)
    trl, trl_gradients = _values_and_gradients(theirs, logps)
    torch.testing.assert_close(ours, trl, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(our_gradients, trl_gradients, rtol=tolerance, atol=tolerance)


def _values_and_gradients(losses_of: Theirs, logps: SequenceLogps) -> tuple[Tensor, Tensor]:
    sides = torch.stack([logps.policy_chosen, logps.policy_rejected]).requires_grad_()
    losses = losses_of(replace(logps, policy_chosen=sides[0], policy_rejected=sides[1]))
    (gradients,) = torch.autograd.grad(losses.sum(), sides)
    assert losses.shape == logps.policy_chosen.shape
    return losses.detach(), gradients
