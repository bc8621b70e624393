"""d_w and d_l of every loss equal the closed forms of docs/losses.md, to 1e-10 in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, sigmoid

from lightning_modules.losses.ada_dpo import AdaDPOLoss
from lightning_modules.losses.alpha_po import AlphaPOLoss
from lightning_modules.losses.aot import AOTLoss
from lightning_modules.losses.aot_unpaired import AOTUnpairedLoss
from lightning_modules.losses.apo_down import APODownLoss
from lightning_modules.losses.apo_zero import APOZeroLoss
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps, incentives
from lightning_modules.losses.bco import BCOLoss
from lightning_modules.losses.bdpo import BDPOLoss
from lightning_modules.losses.beta_dpo import BetaDPOLoss
from lightning_modules.losses.bpo import BPOLoss
from lightning_modules.losses.cal_dpo import CalDPOLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.chi_po import ChiPOLoss
from lightning_modules.losses.chosen_sft import ChosenSFTLoss
from lightning_modules.losses.convex import Exponential, Hinge, Logistic, Square
from lightning_modules.losses.cpo import CPOLoss
from lightning_modules.losses.discopop import DiscoPOPLoss
from lightning_modules.losses.divergences import Alpha, ForwardKL, JensenShannon, ReverseKL
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.dpo_shift import DPOShiftLoss
from lightning_modules.losses.dpop import DPOPLoss
from lightning_modules.losses.exo import EXOLoss
from lightning_modules.losses.f_dpo import FDPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.gated import GatedLoss
from lightning_modules.losses.gpo import GPOLoss
from lightning_modules.losses.hinge import HingeLoss
from lightning_modules.losses.importance_sampled import ImportanceSampledLoss
from lightning_modules.losses.ipo import IPOLoss
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.losses.ln_dpo import LNDPOLoss
from lightning_modules.losses.nca import NCALoss
from lightning_modules.losses.odpo import ODPOLoss
from lightning_modules.losses.orpo import ORPOLoss
from lightning_modules.losses.r_dpo import RDPOLoss
from lightning_modules.losses.robust_dpo import RobustDPOLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.losses.slic import SLiCLoss
from lightning_modules.losses.sppo import SPPOLoss
from tests.lightning_modules.losses.cases import loss_classes, random_logps


@dataclass(frozen=True, eq=False)
class Terms:
    """The symbols of the table: log-probs, log-ratios, lengths, averages."""

    chosen: Tensor
    rejected: Tensor
    h_w: Tensor
    h_l: Tensor
    len_w: Tensor
    len_l: Tensor
    gap: Tensor

    @property
    def a_w(self) -> Tensor:
        return self.chosen / self.len_w

    @property
    def a_l(self) -> Tensor:
        return self.rejected / self.len_l


def slope(x: Tensor) -> Tensor:
    return sigmoid(x) * (1 - sigmoid(x))


Closed = Callable[[Terms], tuple[Tensor | float, Tensor | float]]


def both(d: Callable[[Terms], Tensor]) -> Closed:
    return lambda t: (d(t), d(t))


def margin(beta: float) -> Callable[[Terms], Tensor]:
    return lambda t: beta * (t.h_w - t.h_l)


def flex(t: Terms) -> tuple[Tensor, Tensor]:
    w = sigmoid(-(0.3 * t.h_w - 0.2 * t.h_l))
    return 0.3 * w, 0.2 * w


def dpop(t: Terms) -> tuple[Tensor, Tensor]:
    w = sigmoid(-0.3 * (t.h_w - t.h_l - 0.5 * (-t.h_w).clamp_min(0)))
    return 0.3 * w * (1 + 0.5 * (t.h_w < 0)), 0.3 * w


def simpo(t: Terms) -> tuple[Tensor, Tensor]:
    w = sigmoid(-(2 * t.a_w - 2 * t.a_l - 1))
    return 2 * w / t.len_w, 2 * w / t.len_l


def orpo(t: Terms) -> tuple[Tensor, Tensor]:
    p_w, p_l = t.a_w.exp(), t.a_l.exp()
    s = sigmoid(torch.logit(p_l) - torch.logit(p_w))
    return (1 + 0.1 * s / (1 - p_w)) / t.len_w, 0.1 * s / ((1 - p_l) * t.len_l)


def bdpo(t: Terms) -> tuple[Tensor, Tensor]:
    w = sigmoid(-0.3 * (t.h_w - torch.log(0.7 * t.h_l.exp() + 0.3)))
    return 0.3 * w, 0.3 * w * sigmoid(t.h_l + math.log(0.7 / 0.3))


def ada(t: Terms) -> tuple[Tensor, Tensor]:
    c = (t.a_w.exp() / t.a_l.exp()).clamp(max=1.2)
    w = sigmoid(-0.1 * (c * t.h_w - t.h_l))
    return c * 0.1 * w, 0.1 * w


def bpo(slope_of: Callable[[Tensor], Tensor]) -> Closed:
    def closed(t: Terms) -> tuple[Tensor, Tensor]:
        m = 3 * torch.minimum(t.h_w, -0.3 * t.h_l)
        lags = t.h_w < -0.3 * t.h_l
        return -3 * slope_of(m) * lags, -0.3 * 3 * slope_of(m) * ~lags

    return closed


def f_dpo(u: Callable[[Tensor], Tensor], du: Callable[[Tensor], Tensor]) -> Closed:
    def closed(t: Terms) -> tuple[Tensor, Tensor]:
        w = sigmoid(-0.3 * (u(t.h_w) - u(t.h_l)))
        return 0.3 * w * du(t.h_w), 0.3 * w * du(t.h_l)

    return closed


def disco(t: Terms) -> Tensor:
    m = 0.3 * (t.h_w - t.h_l)
    k = sigmoid(m / 0.5)
    return 0.3 * (sigmoid(-m) * (1 - k) + (-m).exp() * k - ((-m).exp() + sigmoid(m).log()) * k * (1 - k) / 0.5)


def ipo_per_token(t: Terms) -> tuple[Tensor, Tensor]:
    slope = 2 * (5 - (t.h_w / t.len_w - t.h_l / t.len_l))
    return slope / t.len_w, slope / t.len_l


def gpo(slope_of: Callable[[Tensor], Tensor]) -> Closed:
    return both(lambda t: -0.3 * slope_of(margin(0.3)(t)))


def scaled(t: Terms, common: Tensor, chosen: Tensor | float, rejected: Tensor | float) -> tuple[Tensor, Tensor]:
    return common * chosen, common * rejected


def aot_margin(t: Terms) -> Tensor:
    """Each pair's D less the reference's of the same rank, by counting."""
    own = t.chosen - t.rejected
    reference = own - (t.h_w - t.h_l)
    return torch.stack([x - reference.sort().values[(own < x).sum()] for x in own])


def aot_unpaired(t: Terms) -> tuple[Tensor, Tensor]:
    of_chosen = torch.stack([h - t.h_l.sort().values[(t.h_w < h).sum()] for h in t.h_w])
    of_rejected = torch.stack([t.h_w.sort().values[(t.h_l < h).sum()] - h for h in t.h_l])
    return 0.3 * sigmoid(-0.3 * of_chosen), 0.3 * sigmoid(-0.3 * of_rejected)


def beta_dpo(t: Terms) -> Tensor:
    margins = t.h_w - t.h_l
    kept = (margins - 1).abs() <= (margins - 1).abs().sort().values[int(0.75 * len(margins)) - 1]
    beta = (0.3 * (1 + 0.2 * (margins[kept].mean() - 1))).clamp_min(1e-3)
    return kept * beta * sigmoid(-beta * margins) * len(margins) / kept.sum()


def alpha_po(t: Terms, alpha: float) -> tuple[Tensor, Tensor]:
    slopes = [2.5 * (-alpha * a).exp() for a in (t.a_w, t.a_l)]
    rewards = [2.5 * (1 - (-alpha * a).exp()) / alpha for a in (t.a_w, t.a_l)]
    weight = sigmoid(-(rewards[0] - rewards[1] - 0.1))
    return slopes[0] * weight / t.len_w, slopes[1] * weight / t.len_l


def chi_po(t: Terms) -> tuple[Tensor, Tensor]:
    m = 0.3 * (t.h_w.exp() + t.h_w - t.h_l.exp() - t.h_l)
    weight = 0.3 * sigmoid(-m) * (m.abs() < 4)
    return weight * (t.h_w.exp() + 1), weight * (t.h_l.exp() + 1)


def importance_sampled(t: Terms) -> tuple[Tensor, Tensor]:
    weight = (t.h_w + t.h_l).clamp(max=1.0).exp()
    return weight * flex(t)[0], weight * flex(t)[1]


def gated(t: Terms) -> tuple[Tensor, Tensor]:
    return flex(t)[0], flex(t)[1] * sigmoid(20 * (t.a_l.exp() - 0.2))


CASES: list[tuple[PreferenceLoss, Closed]] = [
    (DPOLoss(beta=0.3), both(lambda t: 0.3 * sigmoid(-margin(0.3)(t)))),
    (DPOLoss(beta=0.3, label_smoothing=0.2), both(lambda t: 0.3 * (sigmoid(-margin(0.3)(t)) - 0.2))),
    (FlexDPOLoss(beta_chosen=0.3, beta_rejected=0.2), flex),
    (ChosenSFTLoss(), lambda t: (torch.ones_like(t.chosen), torch.zeros_like(t.chosen))),
    (ChosenSFTLoss(per_token=True), lambda t: (1 / t.len_w, torch.zeros_like(t.chosen))),
    (SFTDPOLoss(gamma=0.2), lambda t: (0.1 * sigmoid(-margin(0.1)(t)) + 0.2, 0.1 * sigmoid(-margin(0.1)(t)))),
    (
        SFTDPOLoss(gamma=0.2, per_token=True),
        lambda t: (0.1 * sigmoid(-margin(0.1)(t)) + 0.2 / t.len_w, 0.1 * sigmoid(-margin(0.1)(t))),
    ),
    (IPOLoss(), both(lambda t: 2 * (5 - (t.h_w - t.h_l)))),
    (
        IPOLoss(per_token=True),
        ipo_per_token,
    ),
    (SLiCLoss(), lambda t: ((t.chosen - t.rejected < 5).double() + 0.1, (t.chosen - t.rejected < 5).double())),
    (HingeLoss(beta=0.3), both(lambda t: 0.3 * (margin(0.3)(t) < 1).double())),
    (GPOLoss(beta=0.3, function=Logistic()), gpo(lambda m: -sigmoid(-m))),
    (GPOLoss(beta=0.3, function=Square()), gpo(lambda m: -2 * (1 - m))),
    (GPOLoss(beta=0.3, function=Hinge()), gpo(lambda m: -(m < 1).double())),
    (GPOLoss(beta=0.3, function=Exponential()), gpo(lambda m: -(-m).exp())),
    (DPOPLoss(penalty=0.5), dpop),
    (ODPOLoss(beta=0.3, alpha=0.5), both(lambda t: 0.3 * sigmoid(0.5 * t.gap.log() - margin(0.3)(t)))),
    (
        KTOLoss(desirable_weight=2.0, undesirable_weight=0.5),
        lambda t: (
            2 * 0.1 * slope(0.1 * (t.h_w - t.h_l.mean().clamp_min(0))),
            0.5 * 0.1 * slope(0.1 * (t.h_w.mean().clamp_min(0) - t.h_l)),
        ),
    ),
    (
        NCALoss(beta=0.3),
        lambda t: (0.3 * (sigmoid(-0.3 * t.h_w) - 0.5 * sigmoid(0.3 * t.h_w)), 0.15 * sigmoid(0.3 * t.h_l)),
    ),
    (SimPOLoss(), simpo),
    (ORPOLoss(), orpo),
    (
        CPOLoss(weight=0.5),
        lambda t: (0.1 * sigmoid(-0.1 * (t.chosen - t.rejected)) + 0.5, 0.1 * sigmoid(-0.1 * (t.chosen - t.rejected))),
    ),
    (
        CPOLoss(weight=0.5, per_token=True),
        lambda t: (
            0.1 * sigmoid(-0.1 * (t.chosen - t.rejected)) + 0.5 / t.len_w,
            0.1 * sigmoid(-0.1 * (t.chosen - t.rejected)),
        ),
    ),
    (RDPOLoss(), both(lambda t: 0.1 * sigmoid(-(margin(0.1)(t) + 0.05 * (t.len_w - t.len_l))))),
    (
        CalDPOLoss(beta=0.1),
        lambda t: (sigmoid(t.h_l - t.h_w) + 5 - t.h_w, sigmoid(t.h_l - t.h_w) + 5 + t.h_l),
    ),
    (
        RobustDPOLoss(label_smoothing=0.2),
        both(lambda t: 0.1 * (0.8 * sigmoid(-margin(0.1)(t)) + 0.2 * sigmoid(margin(0.1)(t))) / 0.6),
    ),
    (APOZeroLoss(beta=0.3), lambda t: (0.3 * slope(0.3 * t.h_w), 0.3 * slope(0.3 * t.h_l))),
    (
        APODownLoss(beta=0.3),
        lambda t: (0.3 * (slope(margin(0.3)(t)) - slope(0.3 * t.h_w)), 0.3 * slope(margin(0.3)(t))),
    ),
    (BCOLoss(beta=0.3), lambda t: (0.3 * sigmoid(-0.3 * t.h_w), 0.3 * sigmoid(0.3 * t.h_l))),
    (SPPOLoss(beta=0.1), lambda t: (-2 * (t.h_w - 5), 2 * (t.h_l + 5))),
    (FDPOLoss(beta=0.3, divergence=ReverseKL()), f_dpo(lambda h: h, torch.ones_like)),
    (FDPOLoss(beta=0.3, divergence=ForwardKL()), f_dpo(lambda h: -(-h).exp(), lambda h: (-h).exp())),
    (FDPOLoss(beta=0.3, divergence=JensenShannon()), f_dpo(lambda h: sigmoid(h).log(), lambda h: sigmoid(-h))),
    (
        FDPOLoss(beta=0.3, divergence=Alpha(alpha=0.4)),
        f_dpo(lambda h: -(-0.4 * h).exp() / 0.4, lambda h: (-0.4 * h).exp()),
    ),
    (BDPOLoss(beta=0.3, mixture=0.7), bdpo),
    (BPOLoss(beta=3.0), bpo(lambda m: -(m < 1).double())),
    (BPOLoss(beta=3.0, function=Logistic()), bpo(lambda m: -sigmoid(-m))),
    (AdaDPOLoss(max_ratio=1.2), ada),
    (LNDPOLoss(beta=2.0), lambda t: scaled(t, 2 * sigmoid(-2 * (t.h_w / t.len_w - t.h_l / t.len_l)), 1 / t.len_w, 1 / t.len_l)),
    (DPOShiftLoss(beta=0.3, shift=0.5), lambda t: scaled(t, 0.3 * sigmoid(-0.3 * (t.h_w - 0.5 * t.h_l)), 1.0, 0.5)),
    (AOTLoss(beta=0.3, label_smoothing=0.1), lambda t: both(lambda t: 0.3 * (sigmoid(-0.3 * aot_margin(t)) - 0.1))(t)),
    (AOTUnpairedLoss(beta=0.3), aot_unpaired),
    (BetaDPOLoss(beta=0.3, alpha=0.2, kept_share=0.75, mean_margin=1.0), both(beta_dpo)),
    (AlphaPOLoss(alpha=0.5), lambda t: alpha_po(t, 0.5)),
    (AlphaPOLoss(alpha=-0.5), lambda t: alpha_po(t, -0.5)),
    (ChiPOLoss(beta=0.3, max_reward=2.0), chi_po),
    (ImportanceSampledLoss(loss=FlexDPOLoss(beta_chosen=0.3, beta_rejected=0.2), epsilon=0.5), importance_sampled),
    (GatedLoss(loss=FlexDPOLoss(beta_chosen=0.3, beta_rejected=0.2), threshold=0.2, sharpness=20.0), gated),
    (
        EXOLoss(beta=0.3),
        both(lambda t: 0.3 * slope(margin(0.3)(t)) * (math.log(0.999 / 0.001) - margin(0.3)(t))),
    ),
    (DiscoPOPLoss(beta=0.3, tau=0.5), both(disco)),
    (
        CalibratedLoss(loss=FlexDPOLoss(beta_chosen=0.3, beta_rejected=0.2), gain=1.6),
        lambda t: (1.6 * flex(t)[0], flex(t)[1] / 1.6),
    ),
    (CalibratedLoss(loss=SimPOLoss(), gain=0.5), lambda t: (simpo(t)[0] / 2, 2 * simpo(t)[1])),
]


@pytest.mark.parametrize(("loss", "closed"), CASES, ids=[str(loss) for loss, _ in CASES])
def test_incentives_equal_the_closed_form(loss: PreferenceLoss, closed: Closed) -> None:
    logps = random_logps(pairs=64, seed=1)
    for ours, theirs in zip(incentives(loss, logps), closed(_terms(logps)), strict=True):
        expected = torch.as_tensor(theirs, dtype=torch.float64).expand_as(ours)
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_every_loss_of_pairs_has_a_closed_form() -> None:
    assert {cls.__name__ for cls in loss_classes()} == {type(loss).__name__ for loss, _ in CASES}


def test_the_sample_reaches_both_sides_of_every_branch() -> None:
    t = _terms(random_logps(pairs=64, seed=1))
    ratios = t.a_w.exp() / t.a_l.exp()
    branches = {
        "chosen below reference": t.h_w < 0,
        "SLiC active": t.chosen - t.rejected < 5,
        "hinge active": margin(0.3)(t) < 1,
        "chosen lags in BPO": t.h_w < -0.3 * t.h_l,
        "BPO's hinge active": 3 * torch.minimum(t.h_w, -0.3 * t.h_l) < 1,
        "AdaDPO clips": ratios > 1.2,
        "chi-PO clips": (0.3 * (t.h_w.exp() + t.h_w - t.h_l.exp() - t.h_l)).abs() > 4,
        "IS-DAA clips": t.h_w + t.h_l > 1,
        "Gate-DPO opens": t.a_l.exp() > 0.2,
    }
    for name, taken in branches.items():
        assert 0 < taken.sum() < taken.numel(), name


def _terms(logps: SequenceLogps) -> Terms:
    h_w, h_l = logps.logratios()
    assert logps.chosen_scores is not None
    assert logps.rejected_scores is not None
    return Terms(
        chosen=logps.policy_chosen,
        rejected=logps.policy_rejected,
        h_w=h_w,
        h_l=h_l,
        len_w=logps.chosen_lengths.double(),
        len_l=logps.rejected_lengths.double(),
        gap=logps.chosen_scores - logps.rejected_scores,
    )
