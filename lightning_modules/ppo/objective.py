"""PPO's loss on one microbatch, and what is logged of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_modules.ppo.clipped import ClippedLoss, clipped_policy_loss, clipped_value_loss
from lightning_modules.ppo.kl import k2
from lightning_modules.ppo.rollout import TokenTable
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class PPOLoss:
    """Losses of K tokens, unreduced."""

    policy: ClippedLoss
    value: ClippedLoss | None
    total: Tensor
    """`[]` sum over the tokens of the policy's loss and value_coefficient times the critic's; differentiable."""


def ppo_loss(stats: TokenStats, values: Tensor | None, table: TokenTable, settings: PPOSettings) -> PPOLoss:
    """Both clipped losses.

    Args:
        stats: of the K tokens, under the policy as it is.
        values: `[K]` the critic's, as it is; None without a critic.
        table: what was fixed when the tokens were drawn.
        settings: clip ranges and the critic's weight.
    """
    policy = clipped_policy_loss(stats.logps, table.old_logps, table.advantages, clip_range=settings.clip_range)
    total = policy.losses.sum()
    if stats.balance_loss is not None:
        # A mean over tokens: of a step's microbatches each counts by its tokens.
        total = total + stats.balance_loss * len(stats.logps)
    if values is None:
        return PPOLoss(policy, None, total)
    assert table.old_values is not None, "a rollout with a critic has its values"
    assert table.returns is not None, "a rollout with a critic has its targets"
    value = clipped_value_loss(values, table.old_values, table.returns, clip_range=settings.value_clip_range)
    return PPOLoss(policy, value, total + settings.value_coefficient * value.losses.sum())


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
    if loss.value is not None:
        metrics |= {"loss/value": loss.value.losses.detach(), "val/clipfrac": loss.value.clipped.float()}
    return metrics
