"""The decoder of the packed layout: rows are not padded, and each prompt's keys and values are computed and stored once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, chain

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from lightning_modules.models.attention_backends.selection import BackendSelector
from lightning_modules.models.generation.decoders.decoder import Decoder
from lightning_modules.models.generation.decoders.decoding_attention import (
    DECODING_ATTENTION,
    DecodingCall,
    PromptCall,
    StepCall,
    register_decoding_attention,
)
from lightning_modules.models.generation.decoders.packed_cohort import PackedCohort
from lightning_modules.models.generation.logits import head_logits
from lightning_modules.models.generation.mode import sampling_mode
from lightning_modules.models.layers.attention import PackedCall
from lightning_modules.models.layers.segments import PackedSegments


class PackedDecoder(Decoder[PackedCohort]):
    """Feeds the model one flat sequence of rows and gives each row its own keys.

    Args:
        model: a model that can be packed, with a `ScoringHead`.
        body: the layers below the head.
        selector: the policy's choice of attention backend, for the prompts.
    """

    equal_lengths = False

    def __init__(self, model: PreTrainedModel, body: nn.Module, selector: BackendSelector) -> None:
        register_decoding_attention()
        self.model = model
        self._body = body
        self._selector = selector

    @override
    def mode(self) -> AbstractContextManager[None]:
        return sampling_mode(self.model, DECODING_ATTENTION)

    @override
    def start(self, prompts: Sequence[Sequence[int]], copies: Sequence[int], max_new_tokens: int) -> tuple[PackedCohort, Tensor]:
        device = self.model.get_input_embeddings().weight.device
        lengths = tuple(map(len, prompts))
        cohort = PackedCohort(lengths, copies, max_new_tokens, device)
        call = PromptCall(PackedCall(_prompt_segments(lengths, device), self._selector), cohort, max_new_tokens)
        input_ids = torch.tensor(list(chain.from_iterable(prompts)), device=device)
        hidden = self._hidden(input_ids, torch.cat([torch.arange(length, device=device) for length in lengths]), call)
        last = torch.tensor(lengths, device=device).cumsum(0) - 1
        return cohort, hidden[last[cohort.prompt_of_row]]

    @override
    def advance(self, cohorts: Sequence[PackedCohort], token_ids: Tensor) -> Tensor:
        positions = [cohort.positions() for cohort in cohorts]
        hidden = self._hidden(token_ids, positions[0] if len(positions) == 1 else torch.cat(positions), StepCall(cohorts))
        for cohort in cohorts:
            cohort.num_own += 1
        return hidden

    @override
    def logits(self, hidden: Tensor) -> Tensor:
        return head_logits(self.model, hidden)

    def _hidden(self, input_ids: Tensor, position_ids: Tensor, call: DecodingCall) -> Tensor:
        """`[N, H]`."""
        output = self._body(input_ids.unsqueeze(0), position_ids=position_ids.unsqueeze(0), use_cache=False, decoding=call)
        rows: Tensor = output.last_hidden_state
        return rows.squeeze(0)


def _prompt_segments(lengths: tuple[int, ...], device: torch.device) -> PackedSegments:
    """Every prompt sees itself alone."""
    cumulative = torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)
    return PackedSegments(torch.arange(sum(lengths), device=device), cumulative, cumulative, lengths, lengths)
