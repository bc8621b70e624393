"""Calibrated DPO: a logistic loss on the log-ratios, tied to absolute targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class CalDPOLoss(PreferenceLoss):
    """-logsig(h_w - h_l) + 0.5 (h_w - 1 / (2 beta))^2 + 0.5 (h_l + 1 / (2 beta))^2.

    Source: Xiao et al., arXiv 2412.14516; weights as in the code of its authors (no beta inside the logistic).
    Incentives: d_w = sig(h_l - h_w) + 1 / (2 beta) - h_w, d_l = sig(h_l - h_w) + 1 / (2 beta) + h_l.
    Rewards: beta h, drawn to 1/2 and -1/2.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 0.001
    """Per nat, > 0; 0.001 to 0.002. The targets lie 1 / (2 beta) nats either side of the reference."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = logps.logratios()
        target = 1 / (2 * self.beta)
        calibration = 0.5 * ((chosen - target).square() + (rejected + target).square())
        losses = calibration - F.logsigmoid(chosen - rejected)
        return PreferenceLossOutput(losses, self.beta * chosen.detach(), self.beta * rejected.detach())
