"""Scored samples before advantages are estimated, which ranks make in parts and join."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lightning_modules.rewards.base import TotalRewards
from lightning_modules.rewards.samples import Samples


@dataclass(frozen=True, eq=False)
class Scored:
    """Q samples with a reward, and the K tokens' columns that belong to them, on the CPU."""

    samples: Samples
    logps: Tensor
    """`[K]` nats, under the policy."""
    reference_logps: Tensor
    """`[K]` nats."""
    values: Tensor | None
    """`[K]` the critic's; None without one."""
    scores: Tensor
    """`[Q]` less what a completion without an end costs."""
    token_rewards: Tensor
    """`[K]`."""
    total: TotalRewards
    """Of everything that was drawn, completions without a reward among it."""
    greedy_scores: Tensor | None = None
    """`[P]` score of each prompt's greedy completion; None where it is not asked for."""
    greedy_total: TotalRewards | None = None
    """Of the greedy completions."""

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Those of all parts, at least one, in order."""
        found = list(parts)
        greedy = [part.greedy_total for part in found if part.greedy_total is not None]
        return cls(
            samples=Samples.joined(part.samples for part in found),
            logps=torch.cat([part.logps for part in found]),
            reference_logps=torch.cat([part.reference_logps for part in found]),
            values=_joined([part.values for part in found]),
            scores=torch.cat([part.scores for part in found]),
            token_rewards=torch.cat([part.token_rewards for part in found]),
            total=TotalRewards.joined(part.total for part in found),
            greedy_scores=_joined([part.greedy_scores for part in found]),
            greedy_total=TotalRewards.joined(greedy) if greedy else None,
        )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
