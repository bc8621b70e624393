"""PPO's loss on one microbatch, and its logged metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.ppo.aggregation import UpdateTotals
from lightning_modules.ppo.clipped import ClippedLoss, clipped_policy_loss, clipped_value_loss
from lightning_modules.ppo.kl import k2, k3
from lightning_modules.ppo.rollout import TokenTable
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class PPOLoss:
    """Losses of K tokens, unreduced."""

    policy: ClippedLoss
    value: ClippedLoss | None
    others: dict[str, Tensor]
    """`{name: [K]}` terms beside them, unweighted, detached."""
    total: Tensor
    """`[]` sum over the tokens of the policy's loss, value_coefficient times the critic's, and the others; differentiable."""


def ppo_loss(
    stats: TokenStats, values: Tensor | None, table: TokenTable, settings: PPOSettings, totals: UpdateTotals | None = None
) -> PPOLoss:
    """Both clipped losses, and what the settings add.

    Args:
        stats: of the K tokens, under the policy as it is.
        values: `[K]` the critic's, as it is; None without a critic.
        table: what was fixed when the tokens were drawn.
        settings: clip ranges, weights, and how tokens add up.
        totals: of the update; by default these tokens are all of it.
    """
    policy = clipped_policy_loss(stats.logps, table.old_logps, table.advantages, clip_range=settings.clip_range)
    losses, others = policy.losses, {}
    if settings.kl_in_loss:
        others["loss/kl"] = k3(stats.logps, table.reference_logps)
        losses = losses + settings.kl_in_loss * others["loss/kl"]
    total = (_token_weights(stats, settings, totals) * losses).sum()
    if settings.preservation:
        others["loss/preservation"] = preserved(stats, table)
        total = total + settings.preservation * others["loss/preservation"].sum()
    if stats.balance_loss is not None:
        # A mean over tokens: of a step's microbatches each counts by its tokens.
        total = total + stats.balance_loss * len(stats.logps)
    detached = {name: term.detach() for name, term in others.items()}
    if values is None:
        return PPOLoss(policy, None, detached, total)
    assert table.old_values is not None, "a rollout with a critic has its values"
    assert table.returns is not None, "a rollout with a critic has its targets"
    value = clipped_value_loss(values, table.old_values, table.returns, clip_range=settings.value_clip_range)
    return PPOLoss(policy, value, detached, total + settings.value_coefficient * value.losses.sum())


def preserved(stats: TokenStats, table: TokenTable) -> Tensor:
    """`[K]` how far each token of a good completion has fallen since it was drawn, where the completion has: nats, >= 0.

    max(0, log pi_old - log pi) for completions whose advantage is not below 0 and whose log-likelihood is below that of old; 0
    elsewhere. Its gradient lifts only what fell (LLDS, arXiv 2512.04220).
    """
    falls = table.old_logps - stats.logps
    of_completion = torch.stack([falls.detach(), table.advantages])
    sums = of_completion.new_zeros(2, stats.num_sequences).index_add(1, stats.target_sequence, of_completion)
    kept = (sums[0] > 0) & (sums[1] >= 0)
    return torch.where(kept[stats.target_sequence], falls.clamp_min(0), 0)


def _token_weights(stats: TokenStats, settings: PPOSettings, totals: UpdateTotals | None) -> Tensor:
    ones = torch.ones_like(stats.logps.detach())
    lengths = ones.new_zeros(stats.num_sequences).index_add(0, stats.target_sequence, ones)
    totals = totals or UpdateTotals(stats.num_sequences, len(stats.logps))
    return settings.aggregation.weights(lengths, totals)[stats.target_sequence]


def step_metrics(loss: PPOLoss, stats: TokenStats, table: TokenTable) -> dict[str, Tensor]:
    """`{name: [K] per-token values}`, detached, under the names the field reads."""
    logps = stats.logps.detach()
    metrics = {
        "loss/policy": loss.policy.losses.detach(),
        "policy/clipfrac": loss.policy.clipped.float(),
        "policy/approxkl": k2(logps, table.old_logps),
        "policy/ratio": (logps - table.old_logps).exp(),
        "policy/entropy": stats.entropy,
    }
    metrics |= loss.others
    if loss.value is not None:
        metrics |= {"loss/value": loss.value.losses.detach(), "val/clipfrac": loss.value.clipped.float()}
    return metrics
