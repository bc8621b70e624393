"""Policies, prompts and small helpers of the generation tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.generation.batched import BatchedEngine
from lightning_modules.models.generation.batching import Batching
from lightning_modules.models.generation.decoders.cached_decoder import CachedDecoder
from lightning_modules.models.generation.decoders.packed_decoder import PackedDecoder
from lightning_modules.models.policy import SampledCompletion
from lightning_modules.models.specs import RandomPolicy
from tests.lightning_modules.models.architectures import NOT_PACKABLE, PACKABLE, VOCAB, config

NO_EOS = -1
"""No token: every completion runs to max_new_tokens."""

PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11], [12, 13], [14, 15, 16], [17, 18, 19, 20, 21, 22, 23]]
"""Different lengths, one token, two of the same length."""

FAMILIES = [*((name, "packed") for name in PACKABLE), *((name, "padded") for name in (*NOT_PACKABLE, "llama", "gemma2"))]
"""(model type, layout): both decoders over every kind of position, head and attention there is here."""


def build(model_type: str = "llama", layout: str = "packed", **options: str) -> CausalLMPolicy:
    return RandomPolicy(config(model_type), seed=1, layout=layout, **options).build()  # type: ignore[arg-type]


def engine(policy: CausalLMPolicy, max_rows: int) -> BatchedEngine:  # type: ignore[type-arg]
    """The policy's engine with another batch size."""
    if policy.layout == "packed":
        return BatchedEngine(PackedDecoder(policy.model, policy._body, policy.attention), Batching(max_rows))
    return BatchedEngine(CachedDecoder(policy.model, policy._body, policy._plain_attention), Batching(max_rows))


def token_ids(groups: Sequence[Sequence[SampledCompletion]]) -> list[list[list[int]]]:
    return [[list(completion.token_ids) for completion in group] for group in groups]


def greedy_by_transformers(policy: CausalLMPolicy, prompt: Sequence[int], max_new_tokens: int, eos_token_id: int) -> list[int]:
    """One prompt alone through `generate`."""
    generation = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=eos_token_id, pad_token_id=0)
    prompt_ids = torch.tensor([list(prompt)])
    with policy.own_attention(), torch.no_grad():
        output = policy.model.generate(prompt_ids, attention_mask=torch.ones_like(prompt_ids), generation_config=generation)
    completion: list[int] = output[0, len(prompt) :].tolist()
    return completion


def scored(policy: CausalLMPolicy, prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[SampledCompletion]]) -> Tensor:
    """`[K]` log-probs of the completions by the policy's training forward."""
    batch = pack(
        [
            Example(tuple(prompt), tuple(TokenizedCompletion(c.token_ids, Role.SAMPLE, "sample") for c in group))
            for prompt, group in zip(prompts, groups, strict=True)
        ]
    )
    with torch.no_grad():
        logps: Tensor = policy(batch).logps
    return logps


def distribution(policy: CausalLMPolicy, prompt: Sequence[int], parameters: Sampling) -> Tensor:
    """`[V]` float64 probabilities of the next token under the parameters, by a sort, from the whole model's own logits."""
    with policy.own_attention(), torch.no_grad():
        logits = policy.model(torch.tensor([list(prompt)]), use_cache=False).logits[0, -1].double()
    probs = (logits / parameters.temperature).softmax(-1)
    ordered, order = probs.sort(descending=True)
    dropped = order[ordered.cumsum(-1) - ordered >= parameters.top_p]
    probs[dropped] = 0
    assert probs.shape == (VOCAB,)
    normalised: Tensor = probs / probs.sum()
    return normalised
