"""Rewards for single tokens, from a policy that was trained by DPO (RTO, arXiv 2404.18922)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import PromptStore
from lightning_modules.models.policy import PolicySpec
from lightning_modules.references.frozen import FrozenPolicy
from lightning_modules.rewards.base import Rewards, RewardSource
from lightning_modules.rewards.checks import require_same_tokens
from lightning_modules.rewards.samples import Samples


class TokenReward(RewardSource):
    """r_t = log pi_dpo(y_t | x, y_<t) - log pi0(y_t | x, y_<t): the reward that DPO says its policy is optimal for, over beta.

    RTO adds it, times beta_1 (the weight), to the score of a judge or a reward model at the end, and takes off the KL of PPO.

    Args:
        policy: recipe of the trained policy.
        weight: beta_1; 0.05 in the paper.
    """

    name = "dpo"
    needs_reference = True

    def __init__(self, policy: PolicySpec, weight: float = 0.05) -> None:
        super().__init__(weight)
        self._spec = policy
        self._policy = FrozenPolicy(policy)

    @override
    def use(self, precision: Precision) -> None:
        # The reference's log-probs are taken off: both are rounded alike.
        self._policy.use(precision)

    @override
    def prepare(self, store: PromptStore, device: torch.device) -> None:
        path = getattr(self._spec, "path", None)
        if path is not None:
            require_same_tokens("policy of the token rewards", path, store)

    @override
    def rewards(self, samples: Samples, batches: Sequence[CompletionBatch]) -> Rewards:
        tokens = torch.cat([self._ratios(batch) for batch in batches])
        return Rewards(torch.zeros(len(samples.completions)), tokens)

    def _ratios(self, batch: CompletionBatch) -> Tensor:
        assert batch.reference_token_logps is not None, "samples come with reference log-probs"
        return (self._policy.logps(batch) - batch.reference_token_logps).cpu()
