"""Identity preference optimization: a squared loss around a target margin."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class IPOLoss(PreferenceLoss):
    """(h - 1 / (2 eta))^2 with h = h_w - h_l, or h = h_w / len_w - h_l / len_l with `per_token`.

    Source: Azar et al., arXiv 2310.12036, Eq. 17 (tau there); sums and eta as in arXiv 2406.07327, Eq. 8.
    `per_token` is what TRL does, on its authors' word that the published results used averages.
    Incentives: d_w = 2 (1 / (2 eta) - h), d_l the same (each over its length with `per_token`). Negative beyond the target.
    Rewards: eta times the two terms of h.

    Raises:
        ValueError: if eta is not > 0.
    """

    eta: float = 0.1
    """Strength of the regularisation, > 0. The margin is driven to 1 / (2 eta) nats (nats per token with `per_token`)."""
    per_token: bool = False
    """Average each log-ratio over its completion, so that the target does not depend on length."""

    def __post_init__(self) -> None:
        require_positive(eta=self.eta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = logps.logratios()
        if self.per_token:
            chosen, rejected = chosen / logps.chosen_lengths, rejected / logps.rejected_lengths
        losses = (chosen - rejected - 1 / (2 * self.eta)).square()
        return PreferenceLossOutput(losses, self.eta * chosen.detach(), self.eta * rejected.detach())
