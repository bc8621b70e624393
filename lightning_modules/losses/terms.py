"""Terms that several preference losses are made of. All differentiable, `[pairs]` in and out, dtype kept."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.losses.base import SequenceLogps


def implicit_rewards(logps: SequenceLogps, beta: float) -> tuple[Tensor, Tensor]:
    """`([pairs], [pairs])`: beta h_w and beta h_l, the DPO implicit rewards up to a constant of the prompt (paper Eq. 5).

    Raises:
        ValueError: if reference log-probs are missing.
    """
    chosen, rejected = logps.logratios()
    return beta * chosen, beta * rejected


def mean_logps(logps: SequenceLogps) -> tuple[Tensor, Tensor]:
    """`([pairs], [pairs])`: policy log-probs per completion token, nats per token, <= 0."""
    return logps.policy_chosen / logps.chosen_lengths, logps.policy_rejected / logps.rejected_lengths


def chosen_nll(logps: SequenceLogps, per_token: bool) -> Tensor:
    """`[pairs]` negative log-likelihood of the chosen completion, >= 0, in nats (nats per token if `per_token`)."""
    return -mean_logps(logps)[0] if per_token else -logps.policy_chosen


def smoothed_logistic(margins: Tensor, label_smoothing: float) -> Tensor:
    """`[pairs]` -(1 - e) logsig(m) - e logsig(-m): the logistic loss when a share e of the labels is expected to be flipped."""
    # logsigmoid, not softplus: softplus turns linear above 20 and would drop terms of 2e-9.
    return -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)


def ranks_in(values: Tensor, first: int, number: int) -> Tensor:
    """`[number]` int64 places in the ascending order of `[n]` values, of those from `first` on; equal values stand in a row."""
    return values.argsort(stable=True).argsort()[first : first + number]
