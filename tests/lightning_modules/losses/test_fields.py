"""Hyperparameters outside their range are refused with a message for a person; so is data a loss cannot use."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from lightning_modules.losses.ada_dpo import AdaDPOLoss
from lightning_modules.losses.alpha_po import AlphaPOLoss
from lightning_modules.losses.aot import AOTLoss
from lightning_modules.losses.base import Loss
from lightning_modules.losses.bdpo import BDPOLoss
from lightning_modules.losses.beta_dpo import BetaDPOLoss
from lightning_modules.losses.bpo import BPOLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.cpo import CPOLoss
from lightning_modules.losses.discopop import DiscoPOPLoss
from lightning_modules.losses.divergences import Alpha
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.dpo_shift import DPOShiftLoss
from lightning_modules.losses.dpop import DPOPLoss
from lightning_modules.losses.exo import EXOLoss
from lightning_modules.losses.gated import GatedLoss
from lightning_modules.losses.group_dpo import GroupDPOLoss
from lightning_modules.losses.importance_sampled import ImportanceSampledLoss
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.losses.ld_dpo import LDDPOLoss
from lightning_modules.losses.odpo import ODPOLoss
from lightning_modules.losses.orpo import ORPOLoss
from lightning_modules.losses.r_dpo import RDPOLoss
from lightning_modules.losses.robust_dpo import RobustDPOLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.losses.slic import SLiCLoss
from tests.lightning_modules.losses.cases import all_loss_classes, random_logps

NUMBERS = [(cls, f.name) for cls in all_loss_classes() for f in fields(cls) if isinstance(f.default, float)]  # type: ignore[arg-type]
BETAS = [(cls, name) for cls, name in NUMBERS if name.startswith("beta") or (cls.__name__, name) == ("IPOLoss", "eta")]
WEIGHTS = [
    (SFTDPOLoss, "gamma"),
    (SLiCLoss, "delta"),
    (SLiCLoss, "eta"),
    (DPOPLoss, "penalty"),
    (ODPOLoss, "alpha"),
    (KTOLoss, "desirable_weight"),
    (KTOLoss, "undesirable_weight"),
    (SimPOLoss, "gamma"),
    (ORPOLoss, "weight"),
    (CPOLoss, "weight"),
    (RDPOLoss, "alpha"),
    (AlphaPOLoss, "gamma"),
    (ImportanceSampledLoss, "epsilon"),
    (GroupDPOLoss, "gamma"),
]
# (class, field, a refused value at the lower end, one at the upper): the end itself if it is open, just beyond it if closed.
INTERVALS = [
    (DPOLoss, "label_smoothing", -1e-9, 0.5),
    (RobustDPOLoss, "label_smoothing", -1e-9, 0.5),
    (EXOLoss, "label_smoothing", 0.0, 0.5),
    (AOTLoss, "label_smoothing", -1e-9, 0.5),
    (DPOShiftLoss, "shift", 0.0, 1 + 1e-9),
    (BetaDPOLoss, "kept_share", 0.0, 1 + 1e-9),
    (GatedLoss, "threshold", -1e-9, 1 + 1e-9),
    (LDDPOLoss, "alpha", -1e-9, 1 + 1e-9),
    (DiscoPOPLoss, "tau", 0.0, 1.0),
    (BDPOLoss, "mixture", 0.0, 1.0),
    (CalibratedLoss, "gain", 0.0, math.inf),
    (BPOLoss, "alpha", 0.0, 1.0 + 1e-9),
    (AdaDPOLoss, "max_ratio", 1.0 - 1e-9, math.inf),
    (Alpha, "alpha", 0.0, 1.0),
]


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_number_must_be_finite(cls: type[Loss], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"expected .*{name}.*, got {value}\. Change it"):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), BETAS)
@pytest.mark.parametrize("value", [0.0, -0.1])
def test_betas_are_positive(cls: type[Loss], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected finite {name} > 0, got {value}"):
        cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), WEIGHTS)
def test_weights_may_be_zero_but_not_negative(cls: type[Loss], name: str) -> None:
    cls(**{name: 0.0})
    with pytest.raises(ValueError, match=f"expected finite {name} >= 0, got -0.1"):
        cls(**{name: -0.1})


@pytest.mark.parametrize(("cls", "name", "below", "above"), INTERVALS)
def test_intervals_are_refused_at_both_ends(cls: type, name: str, below: float, above: float) -> None:
    for value in (below, above):
        with pytest.raises(ValueError, match=f"expected .*{name} "):
            cls(**{name: value})


def test_closed_ends_are_accepted() -> None:
    assert DPOLoss(label_smoothing=0.0).label_smoothing == 0
    assert BPOLoss(alpha=1.0).alpha == 1
    assert AdaDPOLoss(max_ratio=1.0).max_ratio == 1


def test_fields_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        DPOLoss(0.1)  # type: ignore[call-arg]


@pytest.mark.parametrize(("held", "needs"), [(DPOLoss(), True), (SimPOLoss(), False)])
def test_a_calibrated_loss_needs_a_reference_where_the_one_it_holds_does(held: DPOLoss | SimPOLoss, needs: bool) -> None:
    # Also once a callback has replaced the gain.
    assert replace(CalibratedLoss(loss=held), gain=2.0).needs_reference is needs


def test_odpo_needs_scores() -> None:
    with pytest.raises(ValueError, match="expected judge scores for both sides of each pair, got none"):
        ODPOLoss()(replace(random_logps(), rejected_scores=None))


@pytest.mark.parametrize("score", [1.0, 0.5, math.nan])
def test_odpo_refuses_pairs_that_the_judge_does_not_order(score: float) -> None:
    logps = random_logps()
    assert logps.chosen_scores is not None
    scores = logps.chosen_scores.index_fill(0, torch.tensor([2, 5]), score)  # the rejected side has 1
    with pytest.raises(ValueError, match="got 2 of 16 pairs tied, reversed or unscored"):
        ODPOLoss().require_score_gaps((scores - 1).tolist())
    # On a device nothing is asked: the step's loss is NaN, and the step is not applied.
    losses = ODPOLoss()(replace(logps, chosen_scores=scores)).losses
    assert losses.isnan().nonzero().flatten().tolist() == [2, 5]
