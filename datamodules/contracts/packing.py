"""Packs examples into one CompletionBatch: every prompt once, no padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, StepShare
from datamodules.contracts.comparisons import comparisons_of, pair_of, score_gap
from datamodules.contracts.examples import Example


def pack(
    examples: Sequence[Example],
    *,
    share: StepShare | None = None,
    example_index: Sequence[int] | None = None,
    reference_token_logps: Tensor | None = None,
    step_examples: tuple[tuple[int, ...], ...] = (),
) -> CompletionBatch:
    """Lay out `P | C1 | C2 | ...` for each example, one after another.

    Args:
        examples: at least one.
        share: counts of the whole optimizer step; the batch alone by default.
        example_index: index of each example in its split (-1 by default).
        reference_token_logps: `[K]` cached reference log-probs in packing order (nats), if there are any.
        step_examples: examples of each of the rank's microbatches of the optimizer step.

    Returns:
        The batch, on the CPU.

    Raises:
        ValueError: if there is no example or the reference log-probs do not fit.
    """
    if not examples:
        raise ValueError("expected at least one example to pack, got none. Check the sampler: a microbatch may not be empty.")
    layout = _Layout()
    for number, example in enumerate(examples):
        layout.add(example, number, -1 if example_index is None else example_index[number])
    if reference_token_logps is not None and reference_token_logps.shape != (len(layout.target_ids),):
        raise ValueError(
            f"expected {len(layout.target_ids)} reference log-probs, got {list(reference_token_logps.shape)}. "
            "The cache belongs to other data: delete it and compute it again."
        )
    return layout.batch(share, reference_token_logps, step_examples)


class _Layout:
    """Grows the flat lists of a batch, example by example."""

    def __init__(self) -> None:
        self.input_ids: list[int] = []
        self.position_ids: list[int] = []
        self.key_index: list[int] = []
        self.query_lengths: list[int] = []
        self.key_lengths: list[int] = []
        self.target_index: list[int] = []
        self.target_ids: list[int] = []
        self.target_sequence: list[int] = []
        self.prompt_number: list[int] = []
        self.roles: list[int] = []
        self.lengths: list[int] = []
        self.last_row: list[int] = []
        self.pairs: list[tuple[int, int]] = []
        self.pair_score_gaps: list[float | None] = []
        self.compared: list[tuple[int, int]] = []
        self.uncompared = 0
        self.row_numbers: list[int] = []
        self.example_index: list[int] = []
        self.kinds: list[str] = []
        self.sources: list[str] = []
        self.scores: list[float] = []

    def add(self, example: Example, number: int, index: int) -> None:
        start, prompt_length = len(self.input_ids), len(example.prompt_ids)
        prompt_rows = range(start, start + prompt_length)
        self._add_segment(example.prompt_ids, 0, prompt_rows)
        self._add_pair(example)
        for completion in example.completions:
            first, length = len(self.input_ids), len(completion.token_ids)
            rows = range(first, first + length)
            self.target_index += [prompt_rows[-1], *rows[:-1]]
            self.target_ids += completion.token_ids
            self.target_sequence += [len(self.kinds)] * length
            self._add_segment(completion.token_ids, prompt_length, prompt_rows, rows)
            self.prompt_number.append(number)
            self.roles.append(int(completion.role))
            self.lengths.append(length)
            self.last_row.append(rows[-1])
            self.row_numbers.append(example.row_number)
            self.example_index.append(index)
            self.kinds.append(completion.kind)
            self.sources.append(example.source)
            self.scores.append(math.nan if completion.score is None else completion.score)

    def _add_pair(self, example: Example) -> None:
        first, completions = len(self.kinds), example.completions
        for chosen, rejected in pair_of(completions):
            self.pairs.append((first + chosen, first + rejected))
            self.pair_score_gaps.append(score_gap(completions[chosen], completions[rejected]))
        compared = comparisons_of(completions)
        self.compared += [(first + better, first + worse) for better, worse in compared]
        self.uncompared += not compared

    def _add_segment(self, token_ids: tuple[int, ...], position: int, *key_rows: range) -> None:
        self.input_ids += token_ids
        self.position_ids += range(position, position + len(token_ids))
        for rows in key_rows:
            self.key_index += rows
        self.query_lengths.append(len(token_ids))
        self.key_lengths.append(sum(len(rows) for rows in key_rows))

    def batch(
        self, share: StepShare | None, reference_token_logps: Tensor | None, step_examples: tuple[tuple[int, ...], ...]
    ) -> CompletionBatch:
        num_prompts = self.prompt_number[-1] + 1
        return CompletionBatch(
            input_ids=_integers(self.input_ids),
            position_ids=_integers(self.position_ids),
            key_index=_integers(self.key_index),
            cu_q=_cumulative(self.query_lengths),
            cu_k=_cumulative(self.key_lengths),
            target_index=_integers(self.target_index),
            target_ids=_integers(self.target_ids),
            target_sequence=_integers(self.target_sequence),
            prompt_number=_integers(self.prompt_number),
            roles=_integers(self.roles),
            lengths=_integers(self.lengths),
            last_row=_integers(self.last_row),
            pairs=_integers(self.pairs).reshape(-1, 2),
            pair_numbers=tuple(self.pairs),
            pair_score_gaps=tuple(self.pair_score_gaps),
            compared=None if self.compared == self.pairs else _integers(self.compared).reshape(-1, 2),
            uncompared=self.uncompared,
            row_numbers=_integers(self.row_numbers),
            example_index=_integers(self.example_index),
            kinds=tuple(self.kinds),
            query_lengths=tuple(self.query_lengths),
            key_lengths=tuple(self.key_lengths),
            num_prompts=num_prompts,
            share=share or StepShare(prompts=num_prompts, targets=len(self.target_ids), microbatches=1),
            reference_token_logps=reference_token_logps,
            step_examples=step_examples,
            sources=tuple(self.sources),
            scores=None if all(map(math.isnan, self.scores)) else torch.tensor(self.scores, dtype=torch.float32),
        )


def _integers(values: Sequence[object]) -> Tensor:
    # Six times as fast as torch.tensor on a list, which is most of the time that packing takes.
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _cumulative(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
