"""Measures sampling of 64 tokens for 64, 256 and 512 completions with a 0.5B model, ours and transformers' `generate`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.rows import PartOptions, part_options
from bench.gpu.trained_steps import DrawnPolicy, free_memory, quiet
from bench.parts.sampling import GSM8K_LENGTHS, NO_EOS
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.generation.batching import TOKENS_PER_READ

SAMPLES = 8
"""Completions of each prompt."""


def prompts(count: int, vocab_size: int) -> list[list[int]]:
    """Random token ids with the lengths of real questions."""
    generator = torch.Generator().manual_seed(0)
    lengths = [GSM8K_LENGTHS[number % len(GSM8K_LENGTHS)] for number in range(count)]
    return [torch.randint(2, vocab_size, (length,), generator=generator).tolist() for length in lengths]


def ours(policy: CausalLMPolicy, rows: int, new_tokens: int) -> int:
    """Tokens drawn."""
    groups = policy.generate(
        prompts(rows // SAMPLES, policy.vocab_size),
        Sampling(max_new_tokens=new_tokens),
        num_samples=SAMPLES,
        eos_token_id=NO_EOS,
        seed=0,
    )
    return sum(len(completion.token_ids) for group in groups for completion in group)


@torch.no_grad()
def theirs(policy: CausalLMPolicy, rows: int, new_tokens: int) -> int:
    """The same model by `generate`, all rows in one batch, padded on the left."""
    with policy.own_attention():
        ids = prompts(rows // SAMPLES, policy.vocab_size)
        longest = max(map(len, ids))
        device = next(policy.parameters()).device
        padded = torch.tensor([[1] * (longest - len(prompt)) + prompt for prompt in ids], device=device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in ids], device=device)
        output = policy.model.generate(
            padded.repeat_interleave(SAMPLES, 0),
            attention_mask=mask.repeat_interleave(SAMPLES, 0),
            do_sample=True,
            top_k=0,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            eos_token_id=None,
            pad_token_id=1,
        )
    return int(output[:, longest:].numel())


def rate(draw: Callable[[CausalLMPolicy, int, int], int], policy: CausalLMPolicy, rows: int, new_tokens: int) -> float:
    """Tokens a second."""
    begin = time.perf_counter()
    tokens = draw(policy, rows, new_tokens)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - begin)


def operations(policy: CausalLMPolicy, rows: int) -> dict[str, float]:
    """Of one more token: operators called, kernels launched, numbers read by the host."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    counts = []
    for new_tokens in (TOKENS_PER_READ, 3 * TOKENS_PER_READ):
        with profile(activities=activities) as profiler:
            ours(policy, rows, new_tokens)
        events = profiler.key_averages()
        counts.append(
            {
                "operators": sum(event.count for event in events if event.key.startswith("aten::")),
                "launches": sum(event.count for event in events if "LaunchKernel" in event.key),
                "reads": sum(event.count for event in events if event.key == "aten::_local_scalar_dense"),
                "waits": sum(event.count for event in events if event.key in ("cudaStreamSynchronize", "cudaMemcpyAsync")),
            }
        )
    return {name: (counts[1][name] - count) / (2 * TOKENS_PER_READ) for name, count in counts[0].items()}


def main(options: PartOptions) -> None:
    """Weights in bfloat16, and float32 under autocast as PPO samples in training."""
    quiet()
    new_tokens = 4 if options.dry_run else 64
    policy = DrawnPolicy("dry-run" if options.dry_run else "qwen2.5-0.5b", options.device).build().eval()

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast(options.device, torch.bfloat16) if options.device == "cuda" else nullcontext()

    with autocast():
        ours(policy, 64, 4)
        for rows in (64,) if options.dry_run else (64, 256, 512):
            if options.has_time_for(f"autocast, {rows} rows", 8):
                options.add(f"autocast, {rows} rows", tokens_per_second=rate(ours, policy, rows, new_tokens))
        options.add("operations a token, autocast, 64 rows", **operations(policy, 64))
    policy = policy if options.dry_run else policy.to(torch.bfloat16)
    free_memory()
    for rows in (64,) if options.dry_run else (64, 256, 512):
        for name, draw in (("bf16 weights", ours), ("generate, bf16 weights", theirs)):
            if options.has_time_for(f"{name}, {rows} rows", 8):
                draw(policy, 64, 2)
                options.add(f"{name}, {rows} rows", tokens_per_second=rate(draw, policy, rows, new_tokens))
    options.add("operations a token, bf16 weights, 64 rows", **operations(policy, 64))


if __name__ == "__main__":
    main(part_options())
