"""Sets Flex-DPO's beta_rejected while the policy trains, so that it follows the middle of the disentanglement band."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from callbacks.control.band_follower import BandFollower
from callbacks.mathematics.head_geometry import PairGeometry
from lightning_modules.losses.flex_dpo import FlexDPOLoss
from lightning_modules.step_output import StepOutput


class AdaptiveBeta(BandFollower[FlexDPOLoss]):
    """Sets beta_rejected = beta_chosen * ratio of a FlexDPOLoss after every step; ratio follows ||s_w|| / ||s_l||.

    Since d_w / d_l = beta_chosen / beta_rejected, the rule stays in the middle of the band (`band_follower`;
    docs/derivations.md 5.5). Metrics: docs/metrics.md. What it does to a run: docs/results/adaptive_beta.

    Args:
        decay: of the exponential mean over steps, in [0, 1); it starts from the loss's own ratio.
        min_ratio: beta_rejected is at least this times beta_chosen, > 0.
        max_ratio: and at most this, >= min_ratio. 1 never pushes the rejected side harder than DPO does.
        every_n_steps: cadence in optimizer steps.

    Raises:
        ValueError: if an argument is out of range, or, when a fit starts, if the loss has no beta_rejected.
    """

    name = "adaptive_beta"
    loss_class, field, target_name, value_name = FlexDPOLoss, "beta_rejected", "centre", "ratio"

    def __init__(self, decay: float = 0.9, min_ratio: float = 0.1, max_ratio: float = 1.0, every_n_steps: int = 1) -> None:
        if not 0 < min_ratio <= max_ratio:
            raise ValueError(
                f"expected 0 < min_ratio <= max_ratio, got {min_ratio} and {max_ratio}. The ratio is beta_rejected / beta_chosen."
            )
        super().__init__(decay, min_ratio, max_ratio, every_n_steps)

    @override
    def log_targets(self, geometry: PairGeometry, output: StepOutput, loss: FlexDPOLoss) -> Tensor:
        return geometry.log_centre()

    @override
    def first(self, loss: FlexDPOLoss) -> float:
        return loss.beta_rejected / loss.beta_chosen

    @override
    def field_value(self, loss: FlexDPOLoss) -> float:
        return self.value * loss.beta_chosen
