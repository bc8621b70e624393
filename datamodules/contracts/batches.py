"""The batch that every stage consumes: prompts, each with one or more completions, packed without padding.

Shape legend used across the project:
    N  packed rows (tokens fed to the model; every prompt once, then each of its completions)
    S  attention segments (one per prompt, one per completion)
    M  key rows over all segments (a completion's keys are its prompt's rows, then its own)
    K  scored positions (one per completion token)
    Q  sequences (completions)
    V  vocabulary, H hidden width
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Self

import torch
from torch import Tensor

from datamodules.contracts.one_copy import copy_to


class Role(IntEnum):
    """What a completion is to the loss."""

    CHOSEN = 0
    """Preferred completion of a pair; also the single completion of a supervised example."""
    REJECTED = 1
    """Dispreferred completion of a pair."""
    PROBE = 2
    """Frozen response outside the pair: watched, weight 0 in every loss."""
    SAMPLE = 3
    """A response drawn for this prompt (a PPO or best-of-n group)."""


SIDES = ("chosen", "rejected")
"""Kinds of the completions of a pair, in the order of `CompletionBatch.pairs`."""


@dataclass(frozen=True, slots=True)
class StepShare:
    """What the whole optimizer step holds, over all ranks and accumulation steps.

    The planned counts let every microbatch weigh its units by the GLOBAL count without a collective: a loss summed over
    the units of a microbatch and multiplied by `scale(...)` gives, after the strategy's mean over ranks and the trainer's
    division by `accumulate_grad_batches`, the mean over all units of the step.
    """

    prompts: int
    """Prompts (pairs, for preference data) in the optimizer step."""
    targets: int
    """Scored positions (completion tokens) in the optimizer step."""
    microbatches: int
    """Microbatches the step is cut into: world size x accumulate_grad_batches."""
    idle: bool = False
    """Whether another rank counts this microbatch: a rank that has none of its own goes through it, because all ranks make the
    same calls, and neither its loss nor its numbers count."""

    def prompt_scale(self) -> float:
        """Factor on a sum over this microbatch's prompts: `microbatches / prompts`, 0 where it is idle."""
        return 0.0 if self.idle else self.microbatches / self.prompts

    def target_scale(self) -> float:
        """Factor on a sum over this microbatch's scored positions: `microbatches / targets`, 0 where it is idle."""
        return 0.0 if self.idle else self.microbatches / self.targets


@dataclass(frozen=True, eq=False)
class CompletionBatch:
    """Prompts with their completions, flat. Rows are laid out prompt by prompt as `P | C1 | C2 | ...`.

    Segment s attends with the query rows `cu_q[s]:cu_q[s+1]` to the key rows `key_index[cu_k[s]:cu_k[s+1]]`, causally and
    aligned at the bottom right: a prompt segment has its own rows as keys, a completion segment has P + C.
    Sequences are numbered prompt by prompt, in the order of their segments.
    """

    input_ids: Tensor
    """`[N]` int64."""
    position_ids: Tensor
    """`[N]` int64: 0.. in the prompt, len(P).. in each of its completions."""
    key_index: Tensor
    """`[M]` int64: row of N each key reads."""
    cu_q: Tensor
    """`[S + 1]` int32: cumulative query lengths."""
    cu_k: Tensor
    """`[S + 1]` int32: cumulative key lengths."""
    target_index: Tensor
    """`[K]` int64: row whose hidden state predicts the target; the last prompt row predicts every completion's first token."""
    target_ids: Tensor
    """`[K]` int64: token predicted, in [0, V)."""
    target_sequence: Tensor
    """`[K]` int64, non-decreasing: sequence the scored position belongs to, in [0, Q)."""
    prompt_number: Tensor
    """`[Q]` int64, non-decreasing: prompt of the sequence within this batch."""
    roles: Tensor
    """`[Q]` int64, values of `Role`."""
    lengths: Tensor
    """`[Q]` int64: completion tokens, >= 1."""
    last_row: Tensor
    """`[Q]` int64: row of the completion's last token (a reward model reads its score there)."""
    pairs: Tensor
    """`[pairs, 2]` int64: sequence numbers (chosen, rejected) of every prompt that has both (the first of each)."""
    row_numbers: Tensor
    """`[Q]` int64: row of the source file the sequence came from (0-based); -1 where it came from none."""
    example_index: Tensor
    """`[Q]` int64: index of the example in its split's data set; -1 where it has none. Key of the reference cache."""
    kinds: tuple[str, ...]
    """Q labels in words: "chosen", "rejected", or what sort of probe it is ("leftover", "permuted", "unseen", ...)."""
    query_lengths: tuple[int, ...]
    """S lengths, the host-side twin of `cu_q` (no device sync in the hot path)."""
    key_lengths: tuple[int, ...]
    """S lengths, the host-side twin of `cu_k`."""
    num_prompts: int
    """Prompts in this batch."""
    share: StepShare
    """Counts of the whole optimizer step."""
    reference_token_logps: Tensor | None = None
    """`[K]` float32, nats: log-prob of every target under the frozen reference, if cached."""
    reference_states: Tensor | None = None
    """`[K, H']` input of the frozen reference's output layer at each scored position, where its whole distribution is compared."""
    scores: Tensor | None = None
    """`[Q]` float32: judge scores, if the data has them (NaN where one is missing)."""
    sources: tuple[str, ...] = ()
    """Q names: the source within a mixture that the row number counts in; "" where there is one source."""
    pair_numbers: tuple[tuple[int, int], ...] = ()
    """The host-side twin of `pairs`."""
    pair_score_gaps: tuple[float | None, ...] = ()
    """Score of chosen minus that of rejected for every pair, None where one is missing: on the host, for checks."""
    compared: Tensor | None = None
    """`[comparisons, 2]` int64: sequence numbers (better, worse) of all that is compared; None where that is `pairs`."""
    uncompared: int = 0
    """Prompts whose completions are not compared."""
    step_examples: tuple[tuple[int, ...], ...] = ()
    """Examples of each microbatch that this rank takes of the optimizer step, in order; empty where a step is not planned."""

    @property
    def num_sequences(self) -> int:
        """Q."""
        return len(self.kinds)

    @property
    def num_targets(self) -> int:
        """K."""
        return self.target_ids.shape[0]

    @property
    def num_rows(self) -> int:
        """N."""
        return self.input_ids.shape[0]

    @property
    def reference_logps(self) -> Tensor | None:
        """`[Q]` float32 or None: reference log-prob of each completion, summed over its tokens (nats)."""
        if self.reference_token_logps is None:
            return None
        return sum_by_sequence(self.reference_token_logps, self.target_sequence, self.num_sequences)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch with every tensor on `device`; from the host to an accelerator in one copy, which is not waited for."""
        device = torch.device(device)
        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        moved: dict[str, Any]
        if self.input_ids.device.type == "cpu" != device.type:
            moved = dict(copy_to(tensors, device))
        else:
            moved = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in tensors.items()}
        return replace(self, **moved)


def sum_by_sequence(values: Tensor, target_sequence: Tensor, num_sequences: int) -> Tensor:
    """Sum `[K]` per-token values into `[Q]` per-sequence values (differentiable, same dtype)."""
    return values.new_zeros(num_sequences).index_add(0, target_sequence, values)


@dataclass(frozen=True, slots=True)
class Demand:
    """What some data asks of a model that is to read it, or to answer it."""

    source: str
    """Which data, in words."""
    longest: int
    """Tokens of the longest prompt with a completion."""
    largest_token: int
    """Largest token id."""
    remedy: str = "Lower data.max_length."
    """What to do if the sequences are too long."""
    is_drawn: bool = False
    """Whether the model is to write the completions."""


def demand_of(batch: CompletionBatch, source: str) -> Demand:
    """What a batch asks; call it before the batch is moved to a device."""
    return Demand(source, max(batch.key_lengths), int(batch.input_ids.max()))
