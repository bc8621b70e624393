"""Compares a policy's packed log-probs with the model's own logits, one sequence at a time, before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.sharding import AS_HELD, Gathering, root_gathered

if TYPE_CHECKING:
    from lightning_modules.models.scalars.scalar_model import ScalarModel

_SHAPES = ((5, (3, 4)), (2, (4,)), (7, (1, 3, 3)))
"""(prompt tokens, completion tokens) of the made-up batch: shared prompts, equal and different lengths, a single token."""


TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Mean absolute difference of log-probs (nats) that rounding may make (models normalise in float32 even in float64).

A leak between sequences makes about 0.5 in a trained model, 0.0006 to 0.09 in a tiny one with initial weights; rounding in
float32 makes 6e-6 in SmolLM2-135M.
"""


@torch.no_grad()
def check_log_probs(policy: CausalLMPolicy, gathering: Gathering = AS_HELD) -> None:
    """Compare on a short made-up batch. Call it on every rank of a sharded policy.

    Args:
        policy: whole or sharded.
        gathering: how it was sharded.

    Raises:
        ValueError: if a token's log-probs depend on later tokens, which a loss would teach the model to read; or if the log-probs
            differ: the model mixes rows that do not belong together, or transforms its logits in a way the head does not know.
    """
    device, dtype = next(policy.parameters()).device, next(policy.parameters()).dtype
    batch = _made_up_batch(policy.vocab_size).to(device)
    policy.limits.require_length(max(batch.key_lengths), "the set-up self-test")
    # A policy may be built under autocast, whose rounding does not belong to the model; what is gathered in half needs it.
    with torch.autocast(device.type, dtype=gathering.layers, enabled=gathering.layers is not None):
        # First: a sharded model finds its parts when it is called as a whole.
        found = policy(batch).logps
        with root_gathered(policy), policy.own_attention():
            _require_causal(policy, batch, gathering.layers or dtype)
            expected = torch.cat([_own_log_probs(policy, batch, number) for number in range(batch.num_sequences)])
        difference = (found - expected).abs().mean().item()
    if not difference <= TOLERANCE[gathering.layers or dtype]:
        remedy = "Use `layout: padded`." if policy.layout == "packed" else "This model cannot be a policy."
        raise ValueError(
            f"expected log-probs of the {policy.layout} layout to equal those of one sequence at a time, got a mean difference of "
            f"{difference:.3g} nats ({type(policy.model).__name__}, {dtype}). {remedy}"
        )


def _require_causal(policy: CausalLMPolicy, batch: CompletionBatch, dtype: torch.dtype) -> None:
    """One sequence twice, with another last token: what comes before it must not move."""
    first = batch.input_ids[: batch.key_lengths[1]]
    other = torch.cat([first[:-1], (first[-1:] + 1) % policy.vocab_size])
    logits = torch.cat([policy.model(ids.unsqueeze(0), use_cache=False).logits[:, :-1] for ids in (first, other)])
    before, after = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    difference = (before - after).abs().mean().item()
    if not difference <= TOLERANCE[dtype]:
        raise ValueError(
            f"expected log-probs that do not depend on later tokens, got a mean difference of {difference:.3g} nats when another "
            f"token follows ({type(policy.model).__name__}, {dtype}). The model reads in both directions (an embedding model?): it "
            "would see the labels of every loss, and cannot be a policy in either layout. Take a causal model."
        )


@torch.no_grad()
def check_rows(model: ScalarModel) -> None:
    """Compare what a scalar head reads in the packed layout with the model's own, one sequence at a time.

    Raises:
        ValueError: if they differ: the model mixes rows, or a row depends on later tokens.
    """
    weight = next(model.parameters())
    batch = _made_up_batch(model.limits.vocab_size).to(weight.device)
    ends = [int(key) for key, query in zip(batch.key_lengths, batch.query_lengths, strict=True) if key > query]
    with torch.autocast(weight.device.type, enabled=False):
        packed = model.hidden(batch, batch.last_row)
        with model.own_attention():
            alone = [
                model.model.base_model(_sequence(batch, number).unsqueeze(0), use_cache=False).last_hidden_state[0]
                for number in range(batch.num_sequences)
            ]
            prompts = model.model.base_model(batch.input_ids[None, : batch.key_lengths[0]], use_cache=False).last_hidden_state[0]
    assert [len(rows) for rows in alone] == ends, "a sequence is its prompt and its completion"
    expected = torch.cat([torch.stack([rows[-1] for rows in alone]), prompts])
    found = torch.cat([packed, alone[0][: len(prompts)]])
    difference = ((found - expected).abs().mean() / expected.abs().mean()).item()
    if not difference <= TOLERANCE[weight.dtype]:
        raise ValueError(
            f"expected hidden states of the packed layout to equal those of one sequence at a time, and no row to depend on later "
            f"tokens, got a relative difference of {difference:.3g} ({type(model.model).__name__}, {weight.dtype}). It cannot be a "
            "reward model or a critic here: choose a causal decoder, such as Llama."
        )


def _made_up_batch(vocab_size: int) -> CompletionBatch:
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocab_size, (count,), generator=generator).tolist())

    return pack(
        [
            Example(tokens(prompt), tuple(TokenizedCompletion(tokens(length), Role.SAMPLE, "made up") for length in completions))
            for prompt, completions in _SHAPES
        ]
    )


def _own_log_probs(policy: CausalLMPolicy, batch: CompletionBatch, number: int) -> Tensor:
    """`[length]` log-probs of one completion from the whole model's logits."""
    targets = batch.target_ids[batch.target_sequence == number]
    ids = _sequence(batch, number)
    logits: Tensor = policy.model(ids.unsqueeze(0), use_cache=False).logits[0, -len(targets) - 1 : -1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def _sequence(batch: CompletionBatch, number: int) -> Tensor:
    """`[tokens]` prompt and completion."""
    mine = batch.target_sequence == number
    prompt_end = batch.target_index[mine][0]
    prompt = batch.input_ids[prompt_end - batch.position_ids[prompt_end] : prompt_end + 1]
    return torch.cat([prompt, batch.target_ids[mine]])
