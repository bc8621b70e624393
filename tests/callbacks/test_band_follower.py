"""The rule against a hand-made one, the loss it leaves in the module, and a resumption to the same bits."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD

from callbacks.adaptive_beta import AdaptiveBeta, followed
from callbacks.checkpoint import RunCheckpoint
from callbacks.head_geometry import HeadReader
from callbacks.rows import read_rows
from datamodules.packing import pack
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.preference import PreferenceModule
from tests.callbacks.rig import InterruptAt, Interrupted, ProbedPairs, fit
from tests.lightning_modules.stubs import TINY, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

PAIRS = make_pairs(4)
LOSS = FlexDPOLoss(beta_chosen=0.5, beta_rejected=0.4)


def flex(module: PreferenceModule) -> FlexDPOLoss:
    assert isinstance(module.loss, FlexDPOLoss)
    return module.loss


def run(folder: Path, *callbacks: Callback, rate: float = 0.5, **options: Any) -> tuple[PreferenceModule, list[dict[str, Any]]]:
    module = PreferenceModule(TINY, LOSS, partial(SGD, lr=rate), cache_dir=str(folder / "cache"))
    data = ProbedPairs(PAIRS, [[0, 1], [2, 3]], options.get("accumulate", 1))
    trainer = fit(module, list(callbacks), folder, data=data, **options)
    return module, read_rows(Path(trainer.log_dir or ""), "adaptive_beta")


def centre() -> float:
    """exp mean log(||s_w|| / ||s_l||) of all pairs under the starting policy."""
    policy, batch = TINY.build(), pack(PAIRS)
    geometry = HeadReader().geometry_of(policy, batch, policy(batch))
    assert geometry is not None
    return geometry.log_centre().mean().exp().item()


def test_beta_follows_the_centre_of_the_whole_step(tmp_path: Path) -> None:
    module, [row] = run(tmp_path, AdaptiveBeta(decay=0.75, max_ratio=10.0), accumulate=2)
    assert row["adaptive_beta/centre"] == pytest.approx(centre(), rel=1e-5)
    expected = 0.8**0.75 * centre() ** 0.25
    assert row["adaptive_beta/ratio"] == pytest.approx(expected, rel=1e-5)
    assert pytest.approx(0.5 * expected, rel=1e-5) == flex(module).beta_rejected
    assert flex(module).beta_chosen == 0.5


def test_a_policy_that_stands_still_ends_at_its_centre(tmp_path: Path) -> None:
    module, rows = run(tmp_path, AdaptiveBeta(decay=0.0, max_ratio=10.0), rate=0.0, accumulate=2, max_epochs=2)
    assert len(rows) == 2
    assert pytest.approx(0.5 * centre(), rel=1e-5) == flex(module).beta_rejected


def test_the_mean_is_in_the_log_domain_and_clamped() -> None:
    assert math.exp(followed(math.log(0.25), math.log(4.0), 0.5)) == pytest.approx(1.0)
    beta = AdaptiveBeta(min_ratio=0.2, max_ratio=0.9)
    for log_ratio, expected in ((-5.0, 0.2), (5.0, 0.9), (math.log(0.5), 0.5)):
        beta.load_state_dict({"log_ratio": log_ratio})
        assert beta.ratio == pytest.approx(expected)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, rows = run(tmp_path / "whole", AdaptiveBeta(), max_epochs=3)
    with pytest.raises(Interrupted):
        # The end of an epoch: a fixed batch order stands in for the resumable loader.
        run(tmp_path / "cut", AdaptiveBeta(), RunCheckpoint(2), InterruptAt(2), max_epochs=3)
    [checkpoint] = (tmp_path / "cut").rglob("last.ckpt")
    resumed, further = run(tmp_path / "cut", AdaptiveBeta(), RunCheckpoint(2), ckpt_path=str(checkpoint), max_epochs=3)
    assert further == rows[2:]
    assert resumed.loss == whole.loss != LOSS
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_other_losses_and_arguments_are_refused(tmp_path: Path) -> None:
    module = PreferenceModule(TINY, DPOLoss(), partial(SGD, lr=0.1), cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="expected FlexDPOLoss, which has a beta_rejected of its own, got DPOLoss"):
        fit(module, [AdaptiveBeta()], tmp_path)
    with pytest.raises(ValueError, match=r"expected decay in \[0, 1\) and 0 < min_ratio <= max_ratio, got 0.9, 2.0 and 1.0"):
        AdaptiveBeta(min_ratio=2.0)
