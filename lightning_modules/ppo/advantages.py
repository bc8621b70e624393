"""Advantages of sampled tokens: generalised advantage estimation, critic-free baselines, whitening. Pure and flat.

Shape legend: K tokens of Q completions, laid out completion by completion; T tokens of the longest completion.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, Eq. 16), every completion ending its episode.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, with V and A zero after the last token.

    Args:
        rewards: `[K]` reward of each token.
        values: `[K]` V_t, the critic's value before token t is chosen.
        lengths: `[Q]` tokens of each completion, >= 1, adding up to K.
        gamma: discount, in [0, 1].
        gae_lambda: in [0, 1]; 1 gives the Monte-Carlo advantage, 0 the one-step one.

    Returns:
        `([K], [K])` advantages, and returns A_t + V_t (the critic's targets); without gradient.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _require_tokens(lengths, rewards=rewards, values=values)
    grid = _Grid(lengths)
    padded_rewards, padded_values = grid.spread(rewards.detach()), grid.spread(values.detach())
    advantages = torch.zeros_like(padded_rewards)
    following_value = following_advantage = advantages.new_zeros(len(lengths))
    for step in range(padded_rewards.shape[1] - 1, -1, -1):
        # Rows beyond a completion's end hold zeros, so that its last token sees no future.
        delta = padded_rewards[:, step] + gamma * following_value - padded_values[:, step]
        following_advantage = (delta + gamma * gae_lambda * following_advantage) * grid.inside[:, step]
        following_value = padded_values[:, step]
        advantages[:, step] = following_advantage
    flat = grid.collect(advantages)
    return flat, flat + values.detach()


def leave_one_out_advantages(scores: Tensor, groups: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): a completion's score minus the mean score of the others drawn for its prompt.

    Args:
        scores: `[Q]` reward of each completion.
        groups: `[Q]` int64 prompt number of each.

    Returns:
        `[Q]` advantages; 0 for the only completion of its prompt.
    """
    num_groups = int(groups.max()) + 1
    totals = scores.new_zeros(num_groups).index_add(0, groups, scores)
    counts = scores.new_zeros(num_groups).index_add(0, groups, torch.ones_like(scores))
    others = counts[groups] - 1
    return torch.where(others > 0, scores - (totals[groups] - scores) / others.clamp_min(1), torch.zeros_like(scores))


def group_advantages(scores: Tensor, groups: Tensor, *, is_scaled: bool) -> Tensor:
    """GRPO (arXiv 2402.03300): a completion's score minus the mean of its prompt's, over their deviation if `is_scaled`.

    Args:
        scores: `[Q]` reward of each completion.
        groups: `[Q]` int64 prompt number of each.
        is_scaled: whether to divide by the standard deviation (over n - 1) plus 1e-4, as TRL does.

    Returns:
        `[Q]` advantages; 0 for the only completion of its prompt.
    """
    counts = groups.bincount().to(scores.dtype)
    centred = scores - (torch.zeros_like(counts).index_add(0, groups, scores) / counts.clamp_min(1))[groups]
    if not is_scaled:
        return centred
    squares = torch.zeros_like(counts).index_add(0, groups, centred.square())
    return centred / ((squares / (counts - 1).clamp_min(1)).sqrt() + 1e-4)[groups]


def whiten(values: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Unit variance, and mean 0 if `shift_mean`, over `[K]` values.

    The variance is the mean of squares, over K, as in OpenAI's summarisation code; TRL divides by K - 1.
    """
    mean, variance = values.mean(), values.var(correction=0)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else whitened + mean


class _Grid:
    """Between flat `[K]` values and a `[Q, T]` grid that holds zeros after the end of each completion."""

    def __init__(self, lengths: Tensor) -> None:
        self.inside = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]

    def spread(self, flat: Tensor) -> Tensor:
        grid = flat.new_zeros(self.inside.shape)
        grid[self.inside] = flat
        return grid

    def collect(self, grid: Tensor) -> Tensor:
        return grid[self.inside]


def _require_tokens(lengths: Tensor, **per_token: Tensor) -> None:
    total = int(lengths.sum())
    for name, values in per_token.items():
        if values.shape != (total,):
            raise ValueError(
                f"expected {name} of shape [{total}], one value for each token of the {len(lengths)} completions, "
                f"got {list(values.shape)}. Flatten completion by completion, without padding."
            )
