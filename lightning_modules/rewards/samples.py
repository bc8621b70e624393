"""Samples of a policy: prompts with the completions drawn for each, packed for a forward pass.

Shape legend: P prompts, Q completions, K completion tokens, both in the order of the prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.partition import greedy_runs
from datamodules.contracts.prompts import PromptBatch, TaskPrompt
from lightning_modules.models.policy import Policy, SampledCompletion

SAMPLE = "sample"
"""Kind of a completion that was drawn."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Completions of some prompts."""

    prompts: tuple[TaskPrompt, ...]
    groups: tuple[tuple[SampledCompletion, ...], ...]
    """P groups, at least one completion each."""
    eos_token_id: int

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Those of all parts, at least one, in order."""
        found = list(parts)
        prompts = tuple(prompt for part in found for prompt in part.prompts)
        return cls(prompts, tuple(group for part in found for group in part.groups), found[0].eos_token_id)

    @property
    def completions(self) -> list[SampledCompletion]:
        """All Q of them."""
        return [completion for group in self.groups for completion in group]

    def lengths(self) -> Tensor:
        """`[Q]` int64 tokens of each, >= 1."""
        return torch.tensor([len(completion.token_ids) for completion in self.completions])

    def group_numbers(self) -> Tensor:
        """`[Q]` int64 prompt of each, in [0, P)."""
        return torch.arange(len(self.groups)).repeat_interleave(torch.tensor([len(group) for group in self.groups]))

    def finished(self) -> Tensor:
        """`[Q]` bool: ends with the end of sequence."""
        return torch.tensor([completion.finished for completion in self.completions])

    def token_ids(self) -> list[list[int]]:
        """Q lists of token ids without the end of sequence; one may be empty."""
        return [list(c.token_ids[:-1] if c.finished else c.token_ids) for c in self.completions]

    def batches(self, max_tokens: int, *, as_data: bool = False) -> Iterator[CompletionBatch]:
        """All of it, in order, in packed batches of at most `max_tokens` rows (a larger prompt group has one to itself).

        Args:
            max_tokens: of a batch.
            as_data: whether finished completions end with the tokenizer's end of sequence, as those of data do, where the policy
                stopped at another end of its own (Gemma's end of a turn).
        """
        ids = self._as_data if as_data else lambda completion: completion.token_ids
        examples = [
            Example(prompt.prompt_ids, tuple(TokenizedCompletion(ids(c), Role.SAMPLE, SAMPLE) for c in group))
            for prompt, group in zip(self.prompts, self.groups, strict=True)
        ]
        for first, last in greedy_runs([example.num_rows for example in examples], max_tokens):
            yield pack(examples[first:last])

    def has_other_ends(self) -> bool:
        """Whether a completion is finished by another token than the tokenizer's end of sequence."""
        return any(self._as_data(completion) != completion.token_ids for completion in self.completions)

    def _as_data(self, completion: SampledCompletion) -> tuple[int, ...]:
        is_whole = not completion.finished or completion.token_ids[-1] == self.eos_token_id
        return completion.token_ids if is_whole else (*completion.token_ids, self.eos_token_id)

    def keep(self, wanted: Tensor) -> Self:
        """The completions where `[Q]` bool holds; prompts that have none left go."""
        flags = iter(wanted.tolist())
        groups = [tuple(completion for completion in group if next(flags)) for group in self.groups]
        kept = [(prompt, group) for prompt, group in zip(self.prompts, groups, strict=True) if group]
        return replace(self, prompts=tuple(prompt for prompt, _ in kept), groups=tuple(group for _, group in kept))


def draw(policy: Policy, prompts: PromptBatch, *, is_greedy: bool = False) -> Samples:
    """Completions of the prompts under the policy as it is; the greedy one of each if `is_greedy`."""
    groups = policy.generate(
        [prompt.prompt_ids for prompt in prompts.prompts],
        replace(prompts.sampling, temperature=0.0) if is_greedy else prompts.sampling,
        num_samples=1 if is_greedy else prompts.num_samples,
        eos_token_id=prompts.eos_token_id,
        seed=prompts.seed,
    )
    return Samples(prompts.prompts, tuple(map(tuple, groups)), prompts.eos_token_id)
