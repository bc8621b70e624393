"""A policy that is only asked: the reference of a run that samples, or a trained policy whose log-probs are rewards."""

from __future__ import annotations

from typing import cast

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from datamodules.batches import CompletionBatch
from lightning_modules.models.adapted_base import base_of_adapted
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.token_stats import TokenStats


def frozen(spec: PolicySpec, precision: Precision) -> Policy:
    """The recipe's policy, built anew: in evaluation mode, without gradients, its parameters of the type of the trained ones."""
    policy = cast(Policy, precision.convert_module(spec.build()))
    return policy.eval().requires_grad_(False)


class FrozenPolicy:
    """A policy without gradients, built when first asked. No module of the one who holds it: no checkpoint has its weights.

    Args:
        spec: recipe; building twice gives the same weights.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._policy: Policy | None = None

    @property
    def policy(self) -> Policy:
        """The policy, in evaluation mode."""
        if self._policy is None:
            self._policy = self._spec.build().eval().requires_grad_(False)
        return self._policy

    def share(self, policy: Policy) -> None:
        """Take the model under the adapters of a policy that the recipe has just built, and build no second one.

        Args:
            policy: one without adapters, or with some that began as others, changes nothing.
        """
        self._policy = base_of_adapted(policy)

    def use(self, precision: Precision) -> None:
        """Give its parameters the type that those of the trained policy have."""
        precision.convert_module(self.policy)

    @torch.no_grad()
    def logps(self, batch: CompletionBatch) -> Tensor:
        """`[K]` float32 log-probs of the batch's completions (nats), on the batch's device."""
        policy = self.policy.to(batch.input_ids.device)
        stats: TokenStats = policy(batch)
        return stats.logps.float()
