"""Flex-DPO: separate strengths for the two sides of a pair, the 3D-properties paper's own remedy."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import CONTRAST_REMEDIES, PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class FlexDPOLoss(PreferenceLoss):
    """-logsig(m) with m = beta_chosen h_w - beta_rejected h_l.

    Source: arXiv 2406.07327, Appendix B.2.1; defaults from its Table 9. With beta_rejected = f beta_chosen it is DPO-Shift
    (arXiv 2502.07599, f in 0.55..0.9999, typically 0.95). The paper calls it adaptive; both betas are constants.
    Incentives: d_w = beta_chosen sig(-m), d_l = beta_rejected sig(-m).
    Rewards: beta_chosen h_w and beta_rejected h_l.

    Raises:
        ValueError: if a beta is not > 0.
    """

    remedies = CONTRAST_REMEDIES

    beta_chosen: float = 0.1
    """beta+, per nat, > 0. Pull on the chosen completion."""
    beta_rejected: float = 0.08
    """beta-, per nat, > 0. Push on the rejected one; below beta_chosen it slows the drop of the rejected likelihood."""

    def __post_init__(self) -> None:
        require_positive(beta_chosen=self.beta_chosen, beta_rejected=self.beta_rejected)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return True

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen_logratios, rejected_logratios = logps.logratios()
        chosen, rejected = self.beta_chosen * chosen_logratios, self.beta_rejected * rejected_logratios
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
