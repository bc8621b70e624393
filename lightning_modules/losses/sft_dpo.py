"""DPO with a likelihood term on the chosen completion."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_modules.losses.base import PreferenceLoss, PreferenceLossOutput, SequenceLogps
from lightning_modules.losses.checks import require_non_negative, require_positive
from lightning_modules.losses.terms import chosen_nll, implicit_rewards


@dataclass(frozen=True, kw_only=True)
class SFTDPOLoss(PreferenceLoss):
    """-logsig(beta (h_w - h_l)) - gamma log pi+, or - gamma log pi+ / len_w with `per_token`.

    Source: arXiv 2406.07327, Appendix B.2.2, Eq. 7.
    Differs from its print: there the second sign is wrong, as its own gradient shows.
    `per_token` with gamma 1 is iterative RPO (arXiv 2404.19733); with gamma 0.005 and beta 0.01 it is RPO (arXiv
    2405.16436) as TRL's documentation sets it.
    Incentives: d_w = beta sig(-m) + gamma (gamma / len_w with `per_token`), d_l = beta sig(-m).
    Rewards: beta h.

    Raises:
        ValueError: if a field is outside its range.
    """

    remedies = ("lower_rate", "stronger_term", "reward_calibration", "on_policy", "stop_here")

    beta: float = 0.1
    """Per nat, > 0. As in DPO."""
    gamma: float = 0.01
    """Weight of the likelihood term, >= 0; the paper states none. The pull on the chosen side never falls below it."""
    per_token: bool = False
    """Divide the likelihood term by the chosen length, so that long completions do not dominate."""

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        require_non_negative(gamma=self.gamma)

    @property
    def is_logistic(self) -> bool:
        """See PreferenceLoss."""
        return True

    def __call__(self, logps: SequenceLogps) -> PreferenceLossOutput:
        """Per-pair losses and rewards, `[pairs]`."""
        chosen, rejected = implicit_rewards(logps, self.beta)
        losses = -F.logsigmoid(chosen - rejected) + self.gamma * chosen_nll(logps, self.per_token)
        return PreferenceLossOutput(losses, chosen.detach(), rejected.detach())
