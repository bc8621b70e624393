"""The decoder for models that cannot be packed: it uses the model's own attention and cache, on prompts of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from typing_extensions import override

from lightning_modules.models.generation.decoders.decoder import Cohort, Decoder
from lightning_modules.models.generation.logits import head_logits
from lightning_modules.models.generation.mode import sampling_mode


class CachedCohort(Cohort):
    """Rows of equal length, so that none is padded and no mask is needed: exact for whatever the layers are."""

    def __init__(self, cache: Cache, num_rows: int, length: int) -> None:
        self.cache = cache
        self.num_rows = num_rows
        self.length = length

    @override
    def keep(self, rows: Sequence[int]) -> None:
        # The one way of selecting rows that every kind of cache layer has.
        self.cache.reorder_cache(torch.tensor(rows, dtype=torch.int64))
        self.num_rows = len(rows)


class CachedDecoder(Decoder[CachedCohort]):
    """Runs each cohort by itself.

    Args:
        model: any causal LM with a cache and a `ScoringHead`.
        body: the layers below the head.
        attention: name of the attention it came with.
    """

    equal_lengths = True

    def __init__(self, model: PreTrainedModel, body: nn.Module, attention: str) -> None:
        self.model = model
        self._body = body
        self._attention = attention

    @override
    def mode(self) -> AbstractContextManager[None]:
        return sampling_mode(self.model, self._attention)

    @override
    def start(self, prompts: Sequence[Sequence[int]], copies: Sequence[int], max_new_tokens: int) -> tuple[CachedCohort, Tensor]:
        device = self.model.get_input_embeddings().weight.device
        input_ids = torch.tensor([list(prompt) for prompt in prompts], device=device)
        output = self._body(input_ids, use_cache=True)
        prompt_of_row = torch.arange(len(prompts)).repeat_interleave(torch.tensor(copies))
        output.past_key_values.reorder_cache(prompt_of_row)
        cohort = CachedCohort(output.past_key_values, len(prompt_of_row), input_ids.shape[1])
        return cohort, output.last_hidden_state[:, -1][prompt_of_row.to(device)]

    @override
    def advance(self, cohorts: Sequence[CachedCohort], token_ids: Tensor) -> Tensor:
        parts = torch.split(token_ids, [cohort.num_rows for cohort in cohorts])
        return torch.cat([self._advance(cohort, part) for cohort, part in zip(cohorts, parts, strict=True)])

    def _advance(self, cohort: CachedCohort, token_ids: Tensor) -> Tensor:
        position = torch.full_like(token_ids, cohort.length).unsqueeze(1)
        output = self._body(token_ids.unsqueeze(1), position_ids=position, past_key_values=cohort.cache, use_cache=True)
        cohort.length += 1
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    @override
    def logits(self, hidden: Tensor) -> Tensor:
        return head_logits(self.model, hidden)
