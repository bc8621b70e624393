"""The model below a policy's adapters as a policy of its own: a reference that costs no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.adapters.lora import adapters_off
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.files.weights import base_fingerprint
from lightning_modules.models.heads.output_head import OutputHead
from lightning_modules.models.policy import OnProgress, Policy, SampledCompletion
from lightning_modules.token_stats import TokenStats


class AdaptedBase(Policy):
    """A policy with its adapters switched off while it is asked. It holds no weights of its own.

    Args:
        policy: with adapters that began as nothing (B = 0), so that its base is the policy as it started.
    """

    def __init__(self, policy: CausalLMPolicy) -> None:
        super().__init__()
        # A list, which hides it: moving, freezing or converting the reference must not reach the policy.
        self._adapted = [policy]
        self.vocab_size, self.own_ends, self.limits = policy.vocab_size, policy.own_ends, policy.limits

    @override
    def forward(self, batch: CompletionBatch) -> TokenStats:
        with self._base() as policy:
            stats: TokenStats = policy(batch)
            return stats

    @override
    def output_head(self, batch: CompletionBatch) -> OutputHead | None:
        return self._adapted[0].output_head(batch)

    @override
    def sample(self, prompts: Sequence[Sequence[int]], parameters: Sampling, *, eos_token_id: int, seed: int) -> list[list[int]]:
        with self._base() as policy:
            return policy.sample(prompts, parameters, eos_token_id=eos_token_id, seed=seed)

    @override
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: Sampling,
        *,
        num_samples: int,
        eos_token_id: int,
        seed: int,
        on_progress: OnProgress | None = None,
    ) -> list[list[SampledCompletion]]:
        with self._base() as policy:
            return policy.generate(
                prompts, parameters, num_samples=num_samples, eos_token_id=eos_token_id, seed=seed, on_progress=on_progress
            )

    @override
    def fingerprint(self) -> str:
        return base_fingerprint(self._adapted[0].model)

    @override
    def save(self, folder: Path) -> None:
        """Not done: it is where it was loaded from.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"expected a policy with weights of its own to save in {folder}, got the base below another policy's adapters."
        )

    @contextmanager
    def _base(self) -> Iterator[CausalLMPolicy]:
        (policy,) = self._adapted
        with adapters_off(policy.model):
            yield policy


def base_of_adapted(policy: Policy) -> AdaptedBase | None:
    """The policy as it started, where its adapters are all that has changed since; None for any other."""
    return AdaptedBase(policy) if isinstance(policy, CausalLMPolicy) and policy.starts_as_base else None
