"""The completions of a microbatch as a loss may read them: their sums, and their tokens.

Shape legend: Q completions of P prompts, K tokens of theirs, n pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.losses.base import PairsOfStep, SequenceLogps

MISMATCHED = "mismatched"
"""Kind of a completion that answers another prompt: KTO estimates its KL on it."""

NO_REFERENCE = "expected reference log-probs for this loss, got none. Fit with a data module so that they are computed."


@dataclass(frozen=True, eq=False)
class Sums:
    """Completions, with log-probs summed over their tokens, in nats."""

    policy: Tensor
    """`[Q]` log pi. Differentiable, unless they are those of a whole step."""
    reference: Tensor | None
    """`[Q]` log pi0; None where it is not computed."""
    lengths: Tensor
    """`[Q]` tokens, >= 1."""
    scores: Tensor | None
    """`[Q]` judge scores, NaN where one is missing; None where the data has none."""
    pairs: Tensor
    """`[n, 2]` int64 numbers of chosen and rejected completions; of more than two to a prompt, of the best and the worst."""
    kinds: tuple[str, ...]
    """Q labels: "chosen", "rejected", "ranked" between the two, MISMATCHED, or what sort of probe it is."""

    def log_ratios(self) -> Tensor:
        """`[Q]` h = log(pi/pi0), nats.

        Raises:
            ValueError: if reference log-probs are missing.
        """
        if self.reference is None:
            raise ValueError(NO_REFERENCE)
        return self.policy - self.reference

    def of_kind(self, *kinds: str) -> Tensor:
        """`[m]` int64 numbers of the completions of these kinds, in order, found on the host: no device is waited for."""
        members = [number for number, kind in enumerate(self.kinds) if kind in kinds]
        return torch.tensor(members, dtype=torch.int64).to(self.policy.device, non_blocking=True)

    def of_pairs(self, step: PairsOfStep | None = None) -> SequenceLogps:
        """The two completions of each pair."""
        chosen, rejected = self.pairs.unbind(1)
        return SequenceLogps(
            policy_chosen=self.policy[chosen],
            policy_rejected=self.policy[rejected],
            chosen_lengths=self.lengths[chosen],
            rejected_lengths=self.lengths[rejected],
            reference_chosen=None if self.reference is None else self.reference[chosen],
            reference_rejected=None if self.reference is None else self.reference[rejected],
            chosen_scores=None if self.scores is None else self.scores[chosen],
            rejected_scores=None if self.scores is None else self.scores[rejected],
            step=step,
        )


class SumsOfStep(NamedTuple):
    """The completions of a whole optimizer step, over microbatches and ranks, without gradient."""

    sums: Sums
    """All of them."""
    first_pair: int
    """Place of this microbatch's first pair among all pairs."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The K tokens of the completions, completion by completion."""

    policy: Tensor
    """`[K]` log pi of each token, nats. Differentiable."""
    reference: Tensor | None
    """`[K]` log pi0, nats; None where it is not computed."""
    sequence: Tensor
    """`[K]` int64 completion of each, in [0, Q)."""
    sum_sq_probs: Tensor
    """`[K]` sum_v p_v^2 of the policy's distribution where the token stands, in [1/V, 1]. No gradient."""
    kl: Tensor | None = None
    """`[K]` KL(pi0 || pi) of the distributions where the token stands, nats, >= 0; None where not computed. Differentiable."""


@dataclass(frozen=True, eq=False)
class Completions:
    """All that a loss may read of a microbatch."""

    sums: Sums
    tokens: Tokens
    prompts: Tensor
    """`[Q]` int64 prompt of each completion, in [0, P)."""
    num_prompts: int
    """P."""
    step: SumsOfStep | None = None
    """Where a loss reads the whole optimizer step and this is a part of it; None: this is the step."""

    def whole_step(self) -> Sums:
        """The completions of the optimizer step, without gradient: those at hand where nothing else is known."""
        return replace(self.sums, policy=self.sums.policy.detach()) if self.step is None else self.step.sums

    @cached_property
    def pair_sums(self) -> SequenceLogps:
        """The two completions of each pair: the same tensors at every call, whose gradients are the pairs' incentives."""
        step = None if self.step is None else PairsOfStep(self.step.sums.of_pairs(), self.step.first_pair)
        return self.sums.of_pairs(step)

    def scores(self) -> Tensor:
        """`[Q]` judge scores, NaN where one is missing, in the type of the log-probs.

        Raises:
            ValueError: if there are none.
        """
        if self.sums.scores is None:
            raise ValueError("expected judge scores of the completions, got none. Use data of scored responses.")
        return self.sums.scores.to(self.sums.policy.dtype)

    def token_log_ratios(self) -> Tensor:
        """`[K]` log(pi/pi0) of each token, nats. Differentiable.

        Raises:
            ValueError: if reference log-probs are missing.
        """
        if self.tokens.reference is None:
            raise ValueError(NO_REFERENCE)
        return self.tokens.policy - self.tokens.reference

    def sequence_kl(self) -> Tensor:
        """`[Q]` KL(pi0 || pi) of the next-token distributions, summed over each completion, nats. Differentiable.

        Raises:
            ValueError: if it was not computed.
        """
        if self.tokens.kl is None:
            raise ValueError(
                "expected the KL of the reference's distributions for this loss, got none. Fit with model.reference online; pairs "
                "that are looked at beside the training's cannot have this loss."
            )
        return self.by_completion(self.tokens.kl)

    def by_completion(self, values: Tensor) -> Tensor:
        """`[Q]` sums of `[K]` token values over each completion. Differentiable."""
        return values.new_zeros(len(self.sums.kinds)).index_add(0, self.tokens.sequence, values)

    def by_prompt(self, values: Tensor) -> Tensor:
        """`[P]` sums of `[Q]` values over the completions of each prompt. Differentiable."""
        return values.new_zeros(self.num_prompts).index_add(0, self.prompts, values)
