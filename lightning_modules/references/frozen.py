"""A frozen policy: the reference of a run that samples, or a trained policy whose log-probs are rewards."""

from __future__ import annotations

from dataclasses import replace

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch
from lightning_modules.models.adapters.adapted_base import base_of_adapted
from lightning_modules.models.policy import Policy, PolicySpec
from lightning_modules.optimization.precision import converted
from lightning_modules.token_stats import TokenStats


def frozen(spec: PolicySpec, precision: Precision) -> Policy:
    """The recipe's policy, built anew: in evaluation mode, without gradients, its parameters of the type of the trained ones."""
    policy = converted(spec.build(), precision)
    return policy.eval().requires_grad_(False)


class FrozenPolicy:
    """A policy without gradients, built when first asked. No module of the one who holds it: no checkpoint has its weights.

    Args:
        spec: recipe; building twice gives the same weights.
        is_start: whether it is the recipe of the policy that is trained.
    """

    def __init__(self, spec: PolicySpec, *, is_start: bool = False) -> None:
        self._spec = spec
        self._is_start = is_start
        self._policy: Policy | None = None

    @property
    def policy(self) -> Policy:
        """The policy, in evaluation mode."""
        if self._policy is None:
            self._policy = self._spec.build().eval().requires_grad_(False)
        return self._policy

    def share(self, policy: Policy, *, is_sharded: bool) -> None:
        """Take the model under the adapters of the trained policy, if that is what the recipe gives, and build no second one.

        Args:
            policy: as it starts.
            is_sharded: whether ranks will have to gather it together: each asks a reference as work comes to it.
        """
        if self._is_start and not is_sharded:
            self._policy = base_of_adapted(policy)

    def use(self, precision: Precision) -> None:
        """Give its parameters the type that those of the trained policy have."""
        precision.convert_module(self.policy)

    def logps(self, batch: CompletionBatch) -> Tensor:
        """`[K]` float32 log-probs of the batch's completions (nats), on the batch's device."""
        return self._asked(batch).logps.float()

    def answered(self, batch: CompletionBatch, *, with_states: bool = False) -> CompletionBatch:
        """The batch with this policy's log-probs as the reference's; with its states too, which its whole distributions come of."""
        stats = self._asked(batch)
        states = stats.hidden if with_states else None
        return replace(batch, reference_token_logps=stats.logps.float(), reference_states=states)

    @torch.no_grad()
    def _asked(self, batch: CompletionBatch) -> TokenStats:
        stats: TokenStats = self.policy.to(batch.input_ids.device)(batch)
        return stats
