"""Losses and rewards of pairs worked out by hand (30-digit arithmetic), not by the code under test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lightning_modules.losses.ada_dpo import AdaDPOLoss
from lightning_modules.losses.apo_down import APODownLoss
from lightning_modules.losses.apo_zero import APOZeroLoss
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps
from lightning_modules.losses.bco import BCOLoss
from lightning_modules.losses.bdpo import BDPOLoss
from lightning_modules.losses.bpo import BPOLoss
from lightning_modules.losses.cal_dpo import CalDPOLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.chosen_sft import ChosenSFTLoss
from lightning_modules.losses.convex import Exponential, Hinge, Logistic, Square
from lightning_modules.losses.cpo import CPOLoss
from lightning_modules.losses.discopop import DiscoPOPLoss
from lightning_modules.losses.divergences import Alpha, ForwardKL, JensenShannon
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.dpop import DPOPLoss
from lightning_modules.losses.exo import EXOLoss
from lightning_modules.losses.f_dpo import FDPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.gpo import GPOLoss
from lightning_modules.losses.hinge import HingeLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.losses.nca import NCALoss
from lightning_modules.losses.odpo import ODPOLoss
from lightning_modules.losses.orpo import ORPOLoss
from lightning_modules.losses.r_dpo import RDPOLoss
from lightning_modules.losses.robust_dpo import RobustDPOLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.losses.slic import SLiCLoss
from lightning_modules.losses.sppo import SPPOLoss


def _one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


PAIR = SequenceLogps(
    policy_chosen=_one(-10),
    policy_rejected=_one(-30),
    chosen_lengths=torch.tensor([5]),
    rejected_lengths=torch.tensor([10]),
    reference_chosen=_one(-12),
    reference_rejected=_one(-27),
    chosen_scores=_one(3),
    rejected_scores=_one(1),
)
"""h_w = 2, h_l = -3, averages -2 and -3 nats per token, score gap 2."""

# (loss, its value, chosen reward, rejected reward); the terms of each line in the comment.
GOLDEN: list[tuple[PreferenceLoss, float, float, float]] = [
    (DPOLoss(), 0.4740769841801067, 0.2, -0.3),  # -logsig(.5)
    (DPOLoss(label_smoothing=0.1), 0.5240769841801067, 0.2, -0.3),  # .9 x .4740769842 + .1 x .9740769842
    (FlexDPOLoss(), 0.4971544503321098, 0.2, -0.24),  # -logsig(.2 + .24)
    (ChosenSFTLoss(), 10.0, -10.0, -30.0),
    (ChosenSFTLoss(per_token=True), 2.0, -10.0, -30.0),
    (SFTDPOLoss(), 0.5740769841801067, 0.2, -0.3),  # -logsig(.5) + .01 x 10
    (SFTDPOLoss(per_token=True), 0.4940769841801067, 0.2, -0.3),  # -logsig(.5) + .01 x 2
    (IPOLoss(), 0.0, 0.2, -0.3),  # (5 - 5)^2
    (IPOLoss(per_token=True), 18.49, 0.04, -0.03),  # (.4 + .3 - 5)^2
    (SLiCLoss(), 1.0, -10.0, -30.0),  # max(0, 5 - 20) + .1 x 10
    (SLiCLoss(delta=25.0), 6.0, -10.0, -30.0),  # 25 - 20 + .1 x 10
    (HingeLoss(), 0.5, 0.2, -0.3),  # 1 - .5
    (GPOLoss(function=Logistic()), 0.4740769841801067, 0.2, -0.3),
    (GPOLoss(function=Square()), 0.25, 0.2, -0.3),  # (1 - .5)^2
    (GPOLoss(function=Hinge()), 0.5, 0.2, -0.3),
    (GPOLoss(function=Exponential()), 0.6065306597126334, 0.2, -0.3),  # exp(-.5)
    (DPOPLoss(), 0.2014132779827524, 0.6, -0.9),  # -logsig(.3 x 5): the penalty is off
    (ODPOLoss(), 0.7943767694176432, 0.2, -0.3),  # -logsig(.5 - log 2)
    (KTOLoss(), 0.8277066714856675, 0.2, -0.3),  # z_w = max(0, -3) = 0, z_l = 2: sig(-.2) + sig(-.5)
    (NCALoss(), 1.373925607760676, 0.02, -0.03),  # -logsig(.02) - .5 logsig(-.02) - .5 logsig(.03)
    (SimPOLoss(), 0.3132616875182228, -4.0, -6.0),  # -logsig(-4 + 6 - 1)
    (ORPOLoss(), 2.028875078434462, -0.2, -0.3),  # 2 - .1 logsig(logit e^-2 - logit e^-3)
    (CPOLoss(), 10.12692801104297, -1.0, -3.0),  # -logsig(2) + 10
    (CPOLoss(per_token=True), 2.12692801104297, -1.0, -3.0),  # -logsig(2) + 2
    (RDPOLoss(), 0.5759394198788436, 0.45, 0.2),  # -logsig(.5 + .05 x (5 - 10))
    (CalDPOLoss(), 247506.5067153485, 0.002, -0.003),  # -logsig(5) + .5 x 498^2 + .5 x 497^2
    (RobustDPOLoss(), 0.4115769841801067, 0.2, -0.3),  # (.9 x .4740769842 - .1 x .9740769842) / .8
    (APOZeroLoss(), 0.8757234858758631, 0.2, -0.3),  # 1 - sig(.2) + sig(-.3)
    (APODownLoss(), 0.9273746661106233, 0.2, -0.3),  # sig(.2) + 1 - sig(.5)
    (BCOLoss(), 1.361456856068083, 0.02, -0.03),  # -logsig(.02) - logsig(.03)
    (SPPOLoss(), 495013.0, 0.002, -0.003),  # 498^2 + 497^2
    (FDPOLoss(divergence=JensenShannon()), 0.557696594274413, 0.05662191695169728, -0.2355440171013797),
    (FDPOLoss(divergence=ForwardKL()), 0.1275229255484653, 0.0864664716763387, -1.9085536923187668),
    (FDPOLoss(divergence=Alpha()), 0.3640991415328052, 0.1264241117657115, -0.6963378140676130),
    (BDPOLoss(), 0.5696359532285143, 0.2, -0.06445598289862033),  # -logsig(.2 - .1 log((e^-3 + 1) / 2))
    (BPOLoss(), 0.91, 0.2, -0.3),  # min(.2, .3 x .3) = .09
    (BPOLoss(alpha=1.0), 0.8, 0.2, -0.3),  # min(.2, .3) = .2
    (AdaDPOLoss(), 0.4031860488854579, 0.4, -0.3),  # c = min(e, 2): -logsig(.4 + .3)
    (EXOLoss(), 1.945734000110166, 0.2, -0.3),  # KL((sig .5, sig -.5), (.999, .001))
    (DiscoPOPLoss(), 0.6065246465980624, 0.2, -0.3),  # .474 sig(-10) + e^-.5 sig(10)
    (CalibratedLoss(gain=1.5), 0.4740769841801067, 0.2, -0.3),  # -logsig(.5): a gain is for the gradient alone
]


@pytest.mark.parametrize(("loss", "value", "chosen", "rejected"), GOLDEN, ids=[str(case[0]) for case in GOLDEN])
def test_golden_values(loss: PreferenceLoss, value: float, chosen: float, rejected: float) -> None:
    out = loss(PAIR)
    torch.testing.assert_close(out.losses, _one(value), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.chosen_rewards, _one(chosen), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.rejected_rewards, _one(rejected), rtol=1e-12, atol=1e-12)


def test_dpop_penalises_a_chosen_side_below_the_reference() -> None:
    below = replace(PAIR, policy_chosen=_one(-13))  # h_w = -1: m = .3 (-1 + 3 - 50) = -14.4
    out = DPOPLoss()(below)
    torch.testing.assert_close(out.losses, _one(14.40000055739021), rtol=1e-12, atol=0)
    torch.testing.assert_close(out.chosen_rewards, _one(-15.3), rtol=1e-12, atol=0)


def test_kto_reads_the_other_sides_mean() -> None:
    batch = SequenceLogps(
        policy_chosen=torch.tensor([-8.0, -10.0], dtype=torch.float64),
        policy_rejected=torch.tensor([-9.0, -16.0], dtype=torch.float64),
        chosen_lengths=torch.tensor([5, 5]),
        rejected_lengths=torch.tensor([5, 5]),
        reference_chosen=torch.tensor([-10.0, -10.0], dtype=torch.float64),  # h_w = 2, 0: z_l = 1
        reference_rejected=torch.tensor([-15.0, -14.0], dtype=torch.float64),  # h_l = 6, -2: z_w = 2
    )
    losses = KTOLoss(desirable_weight=2.0)(batch).losses
    # 2 sig(0) + sig(.5) and 2 sig(.2) + sig(-.3)
    expected = torch.tensor([1.622459331201855, 1.525225477813297], dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)


def test_bpo_shares_the_gradient_at_a_tie() -> None:
    # h_w = 1.5 = -.5 h_l, exactly
    tied = replace(PAIR, policy_chosen=_one(-10.5).requires_grad_(), policy_rejected=_one(-30).requires_grad_())
    BPOLoss(beta=0.25, alpha=0.5)(tied).losses.sum().backward()
    assert tied.policy_chosen.grad is not None
    assert tied.policy_rejected.grad is not None
    torch.testing.assert_close(-tied.policy_chosen.grad, _one(0.125))
    torch.testing.assert_close(tied.policy_rejected.grad, _one(0.0625))
