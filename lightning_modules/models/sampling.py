"""Draw completions with transformers' `generate`, reproducibly and from the policy's own distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from lightning_modules.models.policy import SamplingParameters

ROWS_PER_CALL = 64
"""Prompts decoded together: prompts of like length, so that little is padding."""


@torch.no_grad()
def generate_completions(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], parameters: SamplingParameters, *, eos_token_id: int, seed: int
) -> list[list[int]]:
    """One completion for each prompt, in order; ends with `eos_token_id` unless it was cut.

    Neither the global random state nor the model's own generation settings (top-k, repetition penalty, ...) are used.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    device = next(model.parameters()).device
    with _without_own_settings(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for numbers in _buckets(prompts):
            input_ids, mask = _left_padded([prompts[number] for number in numbers], eos_token_id)
            rows = model.generate(
                input_ids.to(device), attention_mask=mask.to(device), generation_config=_config(parameters, eos_token_id)
            )
            for number, row in zip(numbers, rows[:, input_ids.shape[1] :].tolist(), strict=True):
                completions[number] = _until_eos(row, eos_token_id)
    return completions


def _buckets(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    return (order[start : start + ROWS_PER_CALL] for start in range(0, len(order), ROWS_PER_CALL))


def _left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    input_ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return input_ids, mask


@contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    # generate() fills every unset field from here: a top-k or repetition penalty of the hub's would bend the distribution.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _config(parameters: SamplingParameters, eos_token_id: int) -> GenerationConfig:
    sampled = parameters.temperature > 0
    draw = {"temperature": parameters.temperature, "top_p": parameters.top_p, "top_k": 0} if sampled else {}
    return GenerationConfig(
        max_new_tokens=parameters.max_new_tokens,
        do_sample=sampled,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
        use_cache=True,
        **draw,
    )


def _until_eos(row: list[int], eos_token_id: int) -> list[int]:
    return row[: row.index(eos_token_id) + 1] if eos_token_id in row else row
