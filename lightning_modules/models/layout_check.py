"""The set-up self-test: a policy's log-probs against the model's own logits, one sequence at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.batches import CompletionBatch, Role
from datamodules.examples import Example, TokenizedCompletion
from datamodules.packing import pack
from lightning_modules.models.causal_lm import CausalLMPolicy

_SHAPES = ((5, (3, 4)), (2, (4,)), (7, (1, 3, 3)))
"""(prompt tokens, completion tokens) of the made-up batch: shared prompts, equal and different lengths, a single token."""

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Mean absolute difference of log-probs (nats) that rounding may make (models normalise in float32 even in float64).

A leak between sequences makes about 0.5 in a trained model, 0.0006 to 0.09 in a tiny one with initial weights; rounding in
float32 makes 6e-6 in SmolLM2-135M.
"""


@torch.no_grad()
def check_log_probs(policy: CausalLMPolicy) -> None:
    """Compare on a short made-up batch.

    Raises:
        ValueError: if the log-probs differ: the model mixes rows that do not belong together, or transforms its logits in a way
            the head does not know.
    """
    batch = _made_up_batch(policy.vocab_size).to(next(policy.parameters()).device)
    with policy.own_attention():
        expected = torch.cat([_own_log_probs(policy, batch, number) for number in range(batch.num_sequences)])
    difference = (policy(batch).logps - expected).abs().mean().item()
    dtype = next(policy.parameters()).dtype
    if not difference <= TOLERANCE[dtype]:
        remedy = "Use `layout: padded`." if policy.layout == "packed" else "This model cannot be a policy."
        raise ValueError(
            f"expected log-probs of the {policy.layout} layout to equal those of one sequence at a time, got a mean difference of "
            f"{difference:.3g} nats ({type(policy.model).__name__}, {dtype}). {remedy}"
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
    mine = batch.target_sequence == number
    targets = batch.target_ids[mine]
    prompt_end = batch.target_index[mine][0]
    prompt = batch.input_ids[prompt_end - batch.position_ids[prompt_end] : prompt_end + 1]
    logits: Tensor = policy.model(torch.cat([prompt, targets]).unsqueeze(0), use_cache=False).logits[0, len(prompt) - 1 : -1]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
