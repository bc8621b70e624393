"""SLiC as the 3D-properties paper writes it: a hinge on the log-probs and a likelihood term, without a reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative


@dataclass(frozen=True, kw_only=True)
class SLiCLoss(PreferenceLoss):
    """max(0, delta - log pi+ + log pi-) - eta log pi+.

    Source: Zhao et al., arXiv 2305.10425; form and defaults of arXiv 2406.07327, Eq. 11. For the reference-based
    hinge without a
    likelihood term see `hinge.HingeLoss`.
    Incentives: d_w = 1[D < delta] + eta, d_l = 1[D < delta], with D = log pi+ - log pi-.
    Rewards: log pi, nats.

    Raises:
        ValueError: if a field is negative.
    """

    needs_reference = False

    delta: float = 5.0
    """Target margin of the log-probs in nats, >= 0. Pairs apart by more get no contrast."""
    eta: float = 0.1
    """Weight of the likelihood term, >= 0. All that is left of the gradient once the margin is reached."""

    def __post_init__(self) -> None:
        require_non_negative(delta=self.delta, eta=self.eta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = logps.policy_chosen, logps.policy_rejected
        losses = torch.relu(self.delta - chosen + rejected) - self.eta * chosen
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
