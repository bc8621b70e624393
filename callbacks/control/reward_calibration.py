"""Reward calibration (arXiv 2604.18239): the gain of any loss follows the middle of the disentanglement band."""

from __future__ import annotations

import math

from torch import Tensor
from typing_extensions import override

from callbacks.control.band_follower import BandFollower
from callbacks.mathematics.head_geometry import PairGeometry
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.step_output import StepOutput


class RewardCalibration(BandFollower[CalibratedLoss]):
    """Sets the gain k of a CalibratedLoss after every step; k follows sqrt(r* / r).

    r = d_w / d_l of the loss it holds and r* = ||s_l|| / ||s_w||: k moves the incentives' ratio, r k^2, to r*, the middle of the
    band (`band_follower`). Pairs that are not pulled and pushed (d_w or d_l not above 0) are left out of the mean.
    Metrics: docs/metrics.md. What it does to a run: docs/results/adaptive_beta.

    Where it differs from its source: a gain is used from the step after it was read, norms and incentives are those of each pair
    (there: of a microbatch's mean), and the gain is bounded.

    Args:
        decay: of the exponential mean over steps, in [0, 1); it starts with the first reading, as in its source.
        max_gain: the gain is in [1 / max_gain, max_gain], >= 1.
        every_n_steps: cadence in optimizer steps.

    Raises:
        ValueError: if an argument is out of range, or, when a fit starts, if the loss has no gain.
    """

    name = "reward_calibration"
    loss_class, field, target_name, value_name = CalibratedLoss, "gain", "target", "gain"

    def __init__(self, decay: float = 0.98, max_gain: float = 10.0, every_n_steps: int = 1) -> None:
        if not 1 <= max_gain < math.inf:
            raise ValueError(f"expected finite max_gain >= 1, got {max_gain}. The gain is in [1 / max_gain, max_gain].")
        super().__init__(decay, 1 / max_gain, max_gain, every_n_steps)

    @override
    def log_targets(self, geometry: PairGeometry, output: StepOutput, loss: CalibratedLoss) -> Tensor | None:
        incentives = output.incentives()
        if incentives is None:
            return None
        push, pull = (incentive.double().log() for incentive in incentives)
        # The step was made with a gain, which is in its incentives: k d_w and d_l / k.
        return (-geometry.log_centre() - (push - pull)) / 2 + math.log(loss.gain)

    @override
    def first(self, loss: CalibratedLoss) -> None:
        return None

    @override
    def field_value(self, loss: CalibratedLoss) -> float:
        return self.value
