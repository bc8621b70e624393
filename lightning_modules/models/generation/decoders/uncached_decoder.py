"""The decoder for models without a key-value cache (Mamba, RWKV): each token is a pass over the whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from lightning_modules.models.generation.batching import Batching
from lightning_modules.models.generation.decoders.decoder import Cohort, Decoder
from lightning_modules.models.generation.logits import head_logits
from lightning_modules.models.generation.mode import sampling_mode


class UncachedCohort(Cohort):
    """Rows of equal length."""

    def __init__(self, token_ids: Tensor) -> None:
        self.token_ids = token_ids

    @override
    def keep(self, rows: Sequence[int]) -> None:
        self.token_ids = self.token_ids.index_select(0, torch.tensor(list(rows), device=self.token_ids.device))


class UncachedDecoder(Decoder[UncachedCohort]):
    """Runs each cohort by itself, from its first token on.

    Args:
        model: any causal LM with a `ScoringHead`.
        body: the layers below the head.
        attention: name of the attention it came with.
    """

    equal_lengths = True

    def __init__(self, model: PreTrainedModel, body: nn.Module, attention: str) -> None:
        self.model = model
        self._body = body
        self._attention = attention

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @override
    def batching(self, num_tokens: int) -> Batching:
        # Its memory is that of a pass over all tokens of all rows; the size of keys and values does not tell it.
        return Batching()

    @override
    def mode(self) -> AbstractContextManager[None]:
        return sampling_mode(self.model, self._attention)

    @override
    def start(self, prompts: Sequence[Sequence[int]], copies: Sequence[int], max_new_tokens: int) -> tuple[UncachedCohort, Tensor]:
        input_ids = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        counts = torch.tensor(copies, device=self.device)
        return UncachedCohort(input_ids.repeat_interleave(counts, 0)), self._last_hidden(input_ids).repeat_interleave(counts, 0)

    @override
    def advance(self, cohorts: Sequence[UncachedCohort], token_ids: Tensor) -> Tensor:
        parts = torch.split(token_ids, [len(cohort.token_ids) for cohort in cohorts])
        for cohort, part in zip(cohorts, parts, strict=True):
            cohort.token_ids = torch.cat([cohort.token_ids, part[:, None]], dim=1)
        return torch.cat([self._last_hidden(cohort.token_ids) for cohort in cohorts])

    def _last_hidden(self, input_ids: Tensor) -> Tensor:
        hidden: Tensor = self._body(input_ids, use_cache=False).last_hidden_state[:, -1]
        return hidden

    @override
    def logits(self, hidden: Tensor) -> Tensor:
        return head_logits(self.model, hidden)
