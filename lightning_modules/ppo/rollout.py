"""A rollout: everything that the updates over one set of samples need; a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, Role, StepShare
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.one_copy import copy_to
from datamodules.contracts.packing import pack


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Values of K sampled tokens that stay fixed while the policy is updated."""

    old_logps: Tensor
    """`[K]` nats, under the policy that sampled."""
    reference_logps: Tensor
    """`[K]` nats."""
    advantages: Tensor
    """`[K]`."""
    old_values: Tensor | None = None
    """`[K]` the critic's before the update; None without a critic."""
    returns: Tensor | None = None
    """`[K]` what the critic is to predict; None without one."""

    def take(self, index: Tensor, device: torch.device | str) -> Self:
        """The rows at `index`, on a device."""
        columns = {name: column[index] for name, column in self.columns().items()}
        device = torch.device(device)
        return type(self)(**(columns if device.type == "cpu" else copy_to(columns, device)))

    def columns(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        found = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: column for name, column in found.items() if column is not None}


@dataclass(frozen=True, eq=False)
class Rollout:
    """P prompts with their completions and what is known of every token, on the CPU."""

    prompts: tuple[tuple[int, ...], ...]
    """P token id tuples."""
    completions: tuple[tuple[tuple[int, ...], ...], ...]
    """P groups."""
    kinds: tuple[tuple[str, ...], ...]
    """P groups: what the diagnostics call each completion."""
    table: TokenTable
    """Prompt by prompt, completion by completion."""

    def examples(self, numbers: Sequence[int]) -> list[Example]:
        """The prompts `numbers` with their completions, ready to pack."""
        return [
            Example(
                self.prompts[number],
                tuple(
                    TokenizedCompletion(ids, Role.SAMPLE, kind)
                    for ids, kind in zip(self.completions[number], self.kinds[number], strict=True)
                ),
            )
            for number in numbers
        ]

    def num_targets(self) -> list[int]:
        """Completion tokens of each prompt."""
        return [sum(map(len, group)) for group in self.completions]

    def num_rows(self, number: int) -> int:
        """Packed rows of a prompt with its completions."""
        return len(self.prompts[number]) + sum(map(len, self.completions[number]))

    def rows_of(self, numbers: Sequence[int]) -> Tensor:
        """Rows of the table that belong to the prompts `numbers`, in their order."""
        ends = np.cumsum(self.num_targets())
        starts = ends - self.num_targets()
        return torch.cat([torch.arange(starts[number], ends[number]) for number in numbers])

    def table_of(self, numbers: Sequence[int], device: torch.device | str) -> TokenTable:
        """The rows of the prompts `numbers`, on a device."""
        return self.table.take(self.rows_of(numbers), device)

    def pack(self, numbers: Sequence[int], share: StepShare | None = None) -> CompletionBatch:
        """A batch of the prompts `numbers`, with its reference log-probs."""
        reference = self.table.reference_logps[self.rows_of(numbers)]
        return pack(self.examples(numbers), share=share, reference_token_logps=reference)

    def state_dict(self) -> dict[str, Any]:
        """Lists and tensors alone, which a checkpoint may hold."""
        return {
            "prompts": [list(ids) for ids in self.prompts],
            "completions": [[list(ids) for ids in group] for group in self.completions],
            "kinds": [list(group) for group in self.kinds],
            "table": self.table.columns(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """What `state_dict` gave."""
        return cls(
            prompts=tuple(tuple(ids) for ids in state["prompts"]),
            completions=tuple(tuple(tuple(ids) for ids in group) for group in state["completions"]),
            kinds=tuple(tuple(group) for group in state["kinds"]),
            table=TokenTable(**{name: column.cpu() for name, column in state["table"].items()}),
        )


def minibatch_plan(num_prompts: int, num_epochs: int, num_minibatches: int, key: Sequence[int]) -> list[list[int]]:
    """The prompts of each update over a rollout: `num_epochs` orders, each cut into `num_minibatches` nearly equal parts.

    A prompt's completions stay together, since they share its rows. Where there are fewer prompts than parts, there are fewer
    parts. A pure function of its arguments.

    Args:
        num_prompts: P >= 1.
        num_epochs: passes over the rollout.
        num_minibatches: updates a pass.
        key: seeds the orders.
    """
    generator = np.random.default_rng(list(key))
    parts = min(num_minibatches, num_prompts)
    return [part.tolist() for _ in range(num_epochs) for part in np.array_split(generator.permutation(num_prompts), parts)]
