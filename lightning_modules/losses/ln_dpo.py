"""Length-normalised DPO: log-ratios averaged over the tokens of each completion."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class LNDPOLoss(PreferenceLoss):
    """-logsig(m) with m = beta (h_w / len_w - h_l / len_l).

    Source: Lambert et al., arXiv 2411.15124 (length-normalised DPO), as TRL's `sigmoid_norm`.
    Incentives: d_w = beta sig(-m) / len_w, d_l = beta sig(-m) / len_l.
    Rewards: beta h / len.

    Raises:
        ValueError: if beta is not > 0.
    """

    beta: float = 5.0
    """Per (nat per token), > 0. Far above DPO's, because it scales averages."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen_ratios, rejected_ratios = logps.logratios()
        chosen = self.beta * chosen_ratios / logps.chosen_lengths
        rejected = self.beta * rejected_ratios / logps.rejected_lengths
        return PreferenceLossOutput(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())
