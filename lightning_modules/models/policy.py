"""The contract of a policy, and of the recipe that builds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.partition import greedy_runs
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.checks.limits import ModelLimits
from lightning_modules.models.heads.output_head import LinearHead, OutputHead
from lightning_modules.models.heads.tiled_divergence import Compared
from lightning_modules.models.sharding import AS_HELD, Gathering, Shardable, shard
from lightning_modules.token_stats import TokenStats

SCORED_TOKENS = 8192
"""Rows of a forward pass that scores what was drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class SampledCompletion:
    """A completion drawn from a policy."""

    token_ids: tuple[int, ...]
    """At least one."""
    logps: Tensor
    """`[len(token_ids)]` float32 on the CPU, nats: log pi(token | prompt, tokens before) of the policy itself, that is at
    temperature 1 and over the whole vocabulary, however the tokens were drawn. What `Policy.forward` gives them; PPO's old ones."""
    finished: bool
    """Whether it ends with an end of sequence; False if it was cut."""


@dataclass(frozen=True, slots=True)
class SamplingProgress:
    """How far a call of `generate` has come."""

    num_done: int
    """Completions that are done."""
    num_completions: int
    """Completions in all."""
    num_tokens: int
    """Tokens drawn."""
    expected_tokens: float
    """Tokens when all are done, if those to come are as long as those done; an over-estimate until the first one is done."""
    seconds: float
    """Since the start."""

    @property
    def tokens_per_second(self) -> float:
        """Mean rate since the start."""
        return self.num_tokens / max(self.seconds, 1e-9)

    @property
    def eta_seconds(self) -> float:
        """Seconds to go, at the mean rate so far."""
        return (self.expected_tokens - self.num_tokens) / max(self.tokens_per_second, 1e-9)


OnProgress = Callable[[SamplingProgress], None]
"""Told how far sampling has come, each time that new tokens have reached the host."""


class Policy(Shardable):
    """A conditional distribution over completions.

    Built without dropout: the policy and its frozen reference are compared token by token, so that noise would be signal.
    """

    vocab_size: int
    """V: token ids are in [0, V)."""
    own_ends: frozenset[int] = frozenset()
    """Token ids that end a completion beside the tokenizer's end of sequence."""
    can_compare: bool = False
    """Whether its distributions can be compared with another's (`compare_with`)."""
    compared_with: tuple[Policy, ...] = ()
    """The reference, where one is compared."""
    limits: ModelLimits | None = None
    """What it can read, where that is known."""

    @abstractmethod
    def forward(self, batch: CompletionBatch) -> TokenStats:
        """Statistics at the K scored positions of the batch."""

    def ends(self, eos_token_id: int) -> frozenset[int]:
        """All token ids that end a completion; none if `eos_token_id` is below 0 (a policy without an end)."""
        return frozenset() if eos_token_id < 0 else self.own_ends | {eos_token_id}

    def without_end(self, token_ids: Sequence[int], eos_token_id: int) -> list[int]:
        """A completion without the token that ended it; itself if it was cut."""
        return list(token_ids[:-1] if self.is_finished(token_ids, eos_token_id) else token_ids)

    def is_finished(self, token_ids: Sequence[int], eos_token_id: int) -> bool:
        """Whether a completion has come to its end and was not cut."""
        return bool(token_ids) and token_ids[-1] in self.ends(eos_token_id)

    def output_head(self, batch: CompletionBatch) -> OutputHead | None:
        """The last layer over `TokenStats.hidden`, for the scored positions of the batch; None where there is none.

        Detached. Call it on every rank: where its weights are sharded they are gathered.
        """
        return None

    def compare_with(self, reference: Policy) -> None:
        """Have `forward` give the divergence from the reference's distributions, of batches that hold its states.

        Args:
            reference: frozen, over the same vocabulary.

        Raises:
            ValueError: if the two cannot be compared.
        """
        if not (self.can_compare and reference.can_compare):
            raise ValueError(
                f"expected language models with an output layer to compare, got {type(self).__name__} and "
                f"{type(reference).__name__}. Use a loss that reads no distributions."
            )
        # A tuple, which hides it from `modules()` and `state_dict()`.
        self.compared_with = (reference,)

    def compared(self, batch: CompletionBatch) -> Compared | None:
        """The reference's distribution at each scored position; None for a batch without its states."""
        states, logps = batch.reference_states, batch.reference_token_logps
        if states is None or logps is None:
            return None
        (reference,) = self.compared_with
        head = reference.output_head(batch)
        assert isinstance(head, LinearHead), "a policy that can be compared has one"
        return Compared(states, head.weight, head.bias, head.transform, logps)

    @abstractmethod
    def sample(self, prompts: Sequence[Sequence[int]], parameters: Sampling, *, eos_token_id: int, seed: int) -> list[list[int]]:
        """One completion for each prompt, reproducible from `seed`; ends with one of `ends(eos_token_id)` unless it was cut."""

    @torch.no_grad()
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
        """`num_samples` completions for each prompt with their log-probs, reproducible from `seed`.

        This one draws with `sample` and scores with one forward pass; a policy that has the log-probs at hand overrides it.

        Args:
            prompts: token ids, at least one each.
            parameters: how tokens are drawn.
            num_samples: completions of each prompt, >= 1.
            eos_token_id: the tokenizer's; ends a completion, as do the policy's `own_ends`.
            seed: another one, other completions.
            on_progress: told how far it has come, if the policy draws in steps.

        Returns:
            A group for each prompt.
        """
        repeated = [prompt for prompt in prompts for _ in range(num_samples)]
        drawn = self.sample(repeated, parameters, eos_token_id=eos_token_id, seed=seed)
        groups = [drawn[start : start + num_samples] for start in range(0, len(drawn), num_samples)]
        logps = iter(self.own_logps(prompts, groups))
        return [
            [SampledCompletion(tuple(ids), next(logps), self.is_finished(ids, eos_token_id)) for ids in group] for group in groups
        ]

    @torch.no_grad()
    def own_logps(self, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Sequence[int]]]) -> Sequence[Tensor]:
        """Log-probs of each completion, in order, in passes of at most `SCORED_TOKENS` rows."""
        examples = [
            Example(tuple(prompt), tuple(TokenizedCompletion(tuple(ids), Role.SAMPLE, "sample") for ids in group))
            for prompt, group in zip(prompts, groups, strict=True)
        ]
        device, scored = next(self.parameters()).device, list[Tensor]()
        for first, last in greedy_runs([example.num_rows for example in examples], SCORED_TOKENS):
            batch = pack(examples[first:last])
            scored += torch.split(self(batch.to(device)).logps.float().cpu(), batch.lengths.tolist())
        return scored

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of the weights and of everything else that log-probs depend on. Equal digests, equal log-probs."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights so that the matching spec loads them again: the hand-over between stages.

        Call it on every rank, because a sharded policy is gathered first; the first one writes.

        Raises:
            FileExistsError: if the folder holds something already.
        """

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Context in which each rank of a sharded policy samples independently; enter it on every rank."""
        yield

    def try_save(self, folder: Path) -> None:
        """Raise now what would make `save` fail when the work is done; nothing by default. Call it on every rank.

        Args:
            folder: an empty one, on the disk that the weights will go to.
        """
        return

    @override
    def shard(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> None:
        """Spread parameters, gradients and optimizer states over the ranks of `mesh` (FSDP2), in place."""
        shard(self, mesh, (), gathering)


class PolicySpec(ABC):
    """A recipe for a policy. Subclasses are frozen dataclasses, so that a config names them by `class_path`."""

    @abstractmethod
    def build(self) -> Policy:
        """A fresh policy, the same weights at every call. The frozen reference is a second one, dropped after use."""

    def build_sharded(self, mesh: DeviceMesh, gathering: Gathering = AS_HELD) -> Policy | None:
        """The policy of `build`, sharded, no rank having held the whole of it; None where that cannot be. Call it on every rank."""
        return None
