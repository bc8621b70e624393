"""Tiny random models of the supported families, and a batch with shared prompts for them."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack

VOCAB = 41
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {"num_key_value_heads": 2, **_COMMON}

PACKABLE: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {"head_dim": 8, **_GROUPED},
    "mistral": {"sliding_window": None, **_GROUPED},
    "gemma2": {"head_dim": 8, "sliding_window": 32, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5, **_GROUPED},
    "gpt_neox": {**_COMMON, "hidden_dropout": 0.5, "attention_dropout": 0.5},
    "opt": {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.5, "layerdrop": 0.5},
    "gpt2": {
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "resid_pdrop": 0.5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "cohere": {"logit_scale": 0.25, **_GROUPED},
    "granite": {"logits_scaling": 3.0, **_GROUPED},
    "phi": {"resid_pdrop": 0.5, **_GROUPED},
}
"""Fields of a configuration by `model_type`; the dropouts are there to be switched off."""

NOT_PACKABLE: dict[str, dict[str, Any]] = {
    "gptj": {
        "vocab_size": VOCAB,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "rotary_dim": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "bloom": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
}
"""Models with an attention of their own."""


def config(model_type: str) -> dict[str, Any]:
    """What `RandomPolicy` takes."""
    fields = (PACKABLE | NOT_PACKABLE)[model_type]
    # Wider than usual weights, so that attention moves the log-probs by whole nats and a leak could not hide.
    return {"model_type": model_type, "initializer_range": 0.2, **fields}


SHAPES = ((6, (4, 7)), (3, (5, 2, 2)), (6, (4, 1)), (1, (3,)))
"""(prompt length, completion lengths): shared prompts, repeated shapes, one-token prompt and completion, three on one prompt."""


def make_batch(seed: int = 0) -> CompletionBatch:
    """A packed batch of `SHAPES`."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCAB, (count,), generator=generator).tolist())

    return pack(
        [
            Example(tokens(prompt), tuple(TokenizedCompletion(tokens(n), Role.SAMPLE, "made up") for n in completions))
            for prompt, completions in SHAPES
        ]
    )


def sequences(batch: CompletionBatch) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of every sequence, read off the batch by the meaning of its fields."""
    pairs = []
    for number in range(batch.num_sequences):
        mine = batch.target_sequence == number
        end = int(batch.target_index[mine][0])
        prompt = batch.input_ids[end - int(batch.position_ids[end]) : end + 1]
        pairs.append((prompt.tolist(), batch.target_ids[mine].tolist()))
    return pairs
