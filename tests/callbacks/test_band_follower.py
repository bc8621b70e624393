"""AdaptiveBeta and RewardCalibration: the rules against hand-made ones, the loss they leave, a resumption to the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD

from callbacks.control.adaptive_beta import AdaptiveBeta
from callbacks.control.band_follower import BandFollower, followed
from callbacks.control.reward_calibration import RewardCalibration
from callbacks.diagnostics.disentanglement import DisentanglementMonitor
from callbacks.mathematics.head_geometry import HeadReader
from callbacks.saving.checkpoint import RunCheckpoint
from datamodules.contracts.packing import pack
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.chosen_sft import ChosenSFTLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows
from tests.callbacks.rig import InterruptAt, Interrupted, ProbedPairs, fit
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

PAIRS = make_pairs(4)
FLEX = FlexDPOLoss(beta_chosen=0.5, beta_rejected=0.4)
CALIBRATED = CalibratedLoss(loss=SimPOLoss(), gain=1.25)
Run = tuple[PreferenceModule, list[dict[str, Any]]]


def run(folder: Path, loss: PreferenceLoss, *callbacks: Callback, rate: float = 0.5, **options: Any) -> Run:
    """A fit, and the rows of the first callback."""
    module = PreferenceModule(TINY, loss, partial(SGD, lr=rate), cache_dir=str(folder / "cache"))
    data = ProbedPairs(PAIRS, [[0, 1], [2, 3]], options.get("accumulate", 1))
    trainer = fit(module, list(callbacks), folder, data=data, **options)
    return module, read_rows(Path(trainer.log_dir or ""), getattr(callbacks[0], "name", ""))


def centre() -> float:
    """exp mean log(||s_w|| / ||s_l||) of all pairs under the starting policy."""
    policy, batch = TINY.build(), pack(PAIRS)
    geometry = HeadReader().geometry_of(policy, batch, policy(batch))
    assert geometry is not None
    return geometry.log_centre().mean().exp().item()


def gain() -> float:
    """sqrt(r* / r): SimPO's d_w and d_l are one number over the length of either side."""
    chosen, rejected = ([len(pair.completions[side].token_ids) for pair in PAIRS] for side in (0, 1))
    ratio = math.prod(chosen) / math.prod(rejected)
    return math.sqrt(ratio ** (1 / len(PAIRS)) / centre())


def test_beta_follows_the_centre_of_the_whole_step(tmp_path: Path) -> None:
    module, [row] = run(tmp_path, FLEX, AdaptiveBeta(decay=0.75, max_ratio=10.0), accumulate=2)
    assert row["adaptive_beta/centre"] == pytest.approx(centre(), rel=1e-5)
    expected = 0.8**0.75 * centre() ** 0.25
    assert row["adaptive_beta/ratio"] == pytest.approx(expected, rel=1e-5)
    assert isinstance(module.loss, FlexDPOLoss)
    assert module.loss.beta_rejected == pytest.approx(0.5 * expected, rel=1e-5)
    assert module.loss.beta_chosen == 0.5


def test_a_policy_that_stands_still_ends_at_its_centre(tmp_path: Path) -> None:
    module, rows = run(tmp_path, FLEX, AdaptiveBeta(decay=0.0, max_ratio=10.0), rate=0.0, accumulate=2, max_epochs=2)
    assert len(rows) == 2
    assert isinstance(module.loss, FlexDPOLoss)
    assert module.loss.beta_rejected == pytest.approx(0.5 * centre(), rel=1e-5)


def test_the_gain_starts_with_the_first_reading_and_is_not_read_back(tmp_path: Path) -> None:
    assert gain() != pytest.approx(1.25, rel=0.01)
    module, rows = run(tmp_path, CALIBRATED, RewardCalibration(), rate=0.0, accumulate=2, max_epochs=3)
    assert len(rows) == 3
    for row in rows:
        # The second and third step were made with another gain than the first.
        assert row["reward_calibration/target"] == pytest.approx(gain(), rel=1e-5)
        assert row["reward_calibration/gain"] == pytest.approx(gain(), rel=1e-5)
    assert isinstance(module.loss, CalibratedLoss)
    assert module.loss.loss == SimPOLoss()
    assert module.loss.gain == pytest.approx(rows[-1]["reward_calibration/gain"], rel=1e-7)


def test_the_gain_moves_the_incentives_to_the_middle_of_the_band(tmp_path: Path) -> None:
    callbacks = [DisentanglementMonitor(1), RewardCalibration()]
    _, [before, after] = run(tmp_path, CALIBRATED, *callbacks, rate=0.0, accumulate=2, max_epochs=2)
    assert before["head/incentive_ratio"] * before["head/centre"] != pytest.approx(1, rel=0.01)
    assert after["head/incentive_ratio"] * after["head/centre"] == pytest.approx(1, rel=1e-5)


def test_a_loss_that_does_not_push_keeps_its_gain(tmp_path: Path) -> None:
    loss = CalibratedLoss(loss=ChosenSFTLoss(), gain=1.25)
    module, rows = run(tmp_path, loss, RewardCalibration())
    assert rows == []
    assert module.loss == loss


def test_the_mean_is_in_the_log_domain() -> None:
    assert math.exp(followed(math.log(0.25), math.log(4.0), 0.5)) == pytest.approx(1.0)


@pytest.mark.parametrize("follower", [AdaptiveBeta(min_ratio=0.2, max_ratio=5.0), RewardCalibration(max_gain=5.0)])
def test_the_number_is_clamped(follower: BandFollower[Any]) -> None:
    for log_value, expected in ((-9.0, 0.2), (9.0, 5.0), (math.log(0.5), 0.5)):
        follower.load_state_dict({"log_value": log_value})
        assert follower.value == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "make"), [(FLEX, AdaptiveBeta), (CALIBRATED, RewardCalibration)])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, loss: PreferenceLoss, make: Callable[[], Callback]) -> None:
    whole, rows = run(tmp_path / "whole", loss, make(), max_epochs=3)
    with pytest.raises(Interrupted):
        # The end of an epoch: a fixed batch order stands in for the resumable loader.
        run(tmp_path / "cut", loss, make(), RunCheckpoint(2), InterruptAt(2), max_epochs=3)
    [checkpoint] = (tmp_path / "cut").rglob("last.ckpt")
    resumed, further = run(tmp_path / "cut", loss, make(), RunCheckpoint(2), ckpt_path=str(checkpoint), max_epochs=3)
    assert further == rows[2:]
    assert resumed.loss == whole.loss != loss
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_other_losses_are_refused(tmp_path: Path) -> None:
    for follower, expected in (
        (
            AdaptiveBeta(),
            "FlexDPOLoss, whose beta_rejected AdaptiveBeta sets, got DPOLoss. Set .*/flex_dpo.yaml",
        ),
        (RewardCalibration(), "CalibratedLoss, whose gain RewardCalibration sets, got DPOLoss. Set .*/calibrated.yaml"),
    ):
        module = PreferenceModule(TINY, DPOLoss(), partial(SGD, lr=0.1), cache_dir=str(tmp_path))
        with pytest.raises(ValueError, match=f"expected {expected}"):
            fit(module, [follower], tmp_path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: AdaptiveBeta(min_ratio=2.0), "expected 0 < min_ratio <= max_ratio, got 2.0 and 1.0"),
        (lambda: RewardCalibration(max_gain=0.5), "expected finite max_gain >= 1, got 0.5"),
        (lambda: RewardCalibration(decay=1.0), r"expected decay in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(make: Callable[[], Callback], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make()
