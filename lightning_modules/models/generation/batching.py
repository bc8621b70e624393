"""Decides which prompts start next: as many as there is room for, of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lightning_modules.models.generation.completions import Request

TOKENS_PER_READ = 8
"""On a device: a wait costs as much as hundreds of launches, and a row that has ended goes on for 4 tokens on average."""
_SHARE = 0.4
"""Share of the free memory. Rows that have left may hold as much again as those that go on (see `kv_store`)."""
_VOCABULARY_BYTES = 24
"""A row's logits in half precision and in float32, their weights, those in blocks, and what is summed."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How much is decoded together. Decides speed and memory only, never what is drawn.

    Raises:
        ValueError: if a limit is below 1.
    """

    max_rows: int = 64
    """Completions in progress. A prompt with more samples than that is run once for every so many."""
    max_prompt_tokens: int = 8192
    """Prompt tokens in one forward pass. A longer prompt is run alone."""
    tokens_per_read: int = 1
    """Tokens of every row that are drawn before the host looks at them: it waits for the device once, and rows that have ended
    meanwhile are cut there."""

    def __post_init__(self) -> None:
        if min(self.max_rows, self.max_prompt_tokens, self.tokens_per_read) < 1:
            raise ValueError(
                "expected max_rows, max_prompt_tokens and tokens_per_read >= 1, "
                f"got {self.max_rows}, {self.max_prompt_tokens} and {self.tokens_per_read}."
            )

    def next_bucket(self, waiting: Sequence[Request], num_active: int, *, equal_lengths: bool) -> int:
        """How many of the first waiting requests to start beside `num_active` rows; 0 to go on without.

        While rows are active nothing starts until a quarter of the room is free: a bucket costs a forward pass of its own,
        and each layer a few calls more a step.
        """
        room = self.max_rows - num_active
        if not waiting or (num_active and 4 * room < self.max_rows):
            return 0
        rows = tokens = count = 0
        for request in waiting:
            rows, tokens = rows + len(request.places), tokens + len(request.prompt)
            is_full = rows > room or tokens > self.max_prompt_tokens
            if is_full or (equal_lengths and len(request.prompt) != len(waiting[0].prompt)):
                break
            count += 1
        return count if count or num_active else 1


def batching_for(model: PreTrainedModel, num_tokens: int) -> Batching:
    """Batching for the model's device: on CUDA as many rows as memory holds, with prompt and completion of `num_tokens` each.

    What is free decides, so that another call may take other batches (see `BatchedEngine` for what that changes).
    """
    device = _device(model)
    if device.type == "cpu":
        return Batching()
    if device.type != "cuda":
        return Batching(tokens_per_read=TOKENS_PER_READ)
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Batching(max(1, int(_SHARE * free) // row_bytes(model, num_tokens)), tokens_per_read=TOKENS_PER_READ)


def row_bytes(model: PreTrainedModel, num_tokens: int) -> int:
    """Memory of a row: keys and values of `num_tokens` in every layer, and what is made of its logits."""
    config = model.config.get_text_config()
    dtype, device = model.get_input_embeddings().weight.dtype, _device(model).type
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    heads = getattr(config, "num_attention_heads", None) or 1
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(
        2 * config.num_hidden_layers * key_heads * width * num_tokens * dtype.itemsize + _VOCABULARY_BYTES * config.vocab_size
    )


def _device(model: PreTrainedModel) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device
