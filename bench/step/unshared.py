"""The packed layout without prompt sharing, to measure what sharing saves."""

from __future__ import annotations

from dataclasses import replace

import torch
from typing_extensions import override

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.preference import PreferenceDataModule


class UnsharedPairs(PreferenceDataModule):
    """Pairs whose prompt is stored and computed once for each completion."""

    @override
    def on_before_batch_transfer(self, batch: CompletionBatch, dataloader_idx: int) -> CompletionBatch:
        return without_sharing(batch)


def without_sharing(batch: CompletionBatch) -> CompletionBatch:
    """The same sequences in the same order, each with a prompt of its own; pairs and counts stay."""
    segments = list(batch.input_ids.split_with_sizes(batch.query_lengths))
    examples, sequence = [], 0
    for prompt in range(batch.num_prompts):
        prompt_ids = tuple(segments.pop(0).tolist())
        for _ in range(int((batch.prompt_number == prompt).sum())):
            completion = TokenizedCompletion(
                tuple(segments.pop(0).tolist()), Role(int(batch.roles[sequence])), batch.kinds[sequence]
            )
            examples.append(Example(prompt_ids, (completion,)))
            sequence += 1
    unshared = pack(examples, share=batch.share, reference_token_logps=batch.reference_token_logps)
    assert torch.equal(unshared.target_ids, batch.target_ids), "packing keeps the order of the completions"
    return replace(unshared, pairs=batch.pairs, num_prompts=batch.num_prompts, prompt_number=batch.prompt_number)
