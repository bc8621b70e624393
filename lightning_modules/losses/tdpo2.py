"""TDPO2: TDPO1 whose KL along the chosen completion is not trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.losses.checks import require_non_negative
from lightning_modules.losses.tdpo1 import TDPO1Loss


@dataclass(frozen=True, kw_only=True)
class TDPO2Loss(TDPO1Loss):
    """-logsig(beta (h_w + alpha sg(D_w) - h_l - alpha D_l)), D as for TDPO1, sg without gradient.

    The distribution along rejected is held to the reference's, that along chosen is left alone.

    Source: Zeng et al., arXiv 2404.11999, Eq. 18, and its authors' code.
    Differs from the source: rewards have alpha before D too, so that their difference is the margin.
    Incentives per token: d_t = beta sig(-m) of log pi, up for chosen and down for rejected; beside it alpha beta sig(-m) of the KL
    along rejected.
    Rewards: beta (h + alpha D).

    Raises:
        ValueError: if a field is outside its range.
    """

    alpha: float = 0.5
    """>= 0, no unit. Weight of the KL; 0 is DPO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_non_negative(alpha=self.alpha)

    def weighed(self, kl: Tensor) -> Tensor:
        """See TDPO1Loss."""
        chosen, rejected = kl.unbind(1)
        return self.alpha * torch.stack([chosen.detach(), rejected], 1)
