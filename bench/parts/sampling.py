"""Measures sampling against transformers' `generate` in a loop over prompts, in one process: `python -m bench.parts.sampling`.

Both sides draw the same number of completions of the same prompts from the same weights, at temperature 1 over the whole
vocabulary, and no completion ends early: rows that end early make `generate` run on with padding, which this leaves out. A round
has prompts of its own and runs each side once; who goes first alternates. Speed is tokens drawn per second of wall clock; the
ratio is taken round by round, and what is quoted is the median over rounds. CPU seconds stand beside it, since they hardly depend
on what else the machine does.

Prompt lengths are token counts of real GSM8K questions under "Question: ...", "Answer:" with the SmolLM2 tokenizer; the ids are
random.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from datamodules.contracts.prompts import Sampling
from lightning_modules.models.policy import Policy
from lightning_modules.models.specs import PretrainedPolicy

# fmt: off
GSM8K_LENGTHS = (
    49, 52, 73, 46, 79, 52, 42, 44, 30, 71, 66, 61, 73, 50, 66, 52, 159, 59, 107, 42, 55, 86,
    78, 82, 48, 92, 54, 34, 46, 83, 51, 56, 86, 52, 85, 71, 64, 74, 51, 66, 41, 89, 78, 51,
    95, 41, 103, 47, 78, 55, 56, 101, 95, 73, 47, 43, 95, 77, 46, 64, 55, 51, 101, 73,
)
# fmt: on
"""Of 64 training questions drawn with seed 0."""

NO_EOS = -1

OURS, RIVAL = "ours", "generate in a loop"


def main() -> None:
    """Run the rounds, print a table, write JSON and markdown where asked."""
    options = _parse()
    torch.set_num_threads(options.threads)
    policy = PretrainedPolicy(options.model).build()
    rival = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    sides: dict[str, Callable[[list[list[int]], int], int]] = {
        OURS: lambda prompts, seed: _ours(policy, prompts, options, seed),
        RIVAL: lambda prompts, seed: _loop(rival, prompts, options, seed),
    }
    rounds = []
    for number in range(options.rounds):
        prompts = _prompts(options.prompts, policy.vocab_size, number)
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        rounds.append({side: _timed(sides[side], prompts, number) for side in order})
        print(f"round {number + 1}/{options.rounds}: {json.dumps(rounds[-1])}", file=sys.stderr, flush=True)
        _report(rounds, options)
    print(_table(rounds, options))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub name, for example HuggingFaceTB/SmolLM2-135M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16, help="in a round")
    parser.add_argument("--samples", type=int, default=8, help="of each prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file; a table is written beside it as .md")
    return parser.parse_args()


def _prompts(count: int, vocab_size: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randperm(len(GSM8K_LENGTHS), generator=generator)[:count].tolist()
    return [torch.randint(vocab_size, (GSM8K_LENGTHS[pick],), generator=generator).tolist() for pick in picks]


def _ours(policy: Policy, prompts: list[list[int]], options: argparse.Namespace, seed: int) -> int:
    parameters = Sampling(max_new_tokens=options.new_tokens)
    groups = policy.generate(prompts, parameters, num_samples=options.samples, eos_token_id=NO_EOS, seed=seed)
    return sum(len(completion.token_ids) for group in groups for completion in group)


@torch.no_grad()
def _loop(model: PreTrainedModel, prompts: list[list[int]], options: argparse.Namespace, seed: int) -> int:
    torch.manual_seed(seed)
    generation = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=options.new_tokens,
        min_new_tokens=options.new_tokens,
        num_return_sequences=options.samples,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=True,
    )
    model.generation_config = generation
    tokens = 0
    for prompt in prompts:
        prompt_ids = torch.tensor([prompt])
        output = model.generate(prompt_ids, attention_mask=torch.ones_like(prompt_ids), generation_config=generation)
        tokens += output[:, len(prompt) :].numel()
    return tokens


def _timed(side: Callable[[list[list[int]], int], int], prompts: list[list[int]], seed: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = side(prompts, seed)
    return {"tokens": tokens, "seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def _ratios(rounds: list[dict[str, Any]], clock: str) -> list[float]:
    return [r[RIVAL][clock] / r[OURS][clock] * r[OURS]["tokens"] / r[RIVAL]["tokens"] for r in rounds]


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for side in (OURS, RIVAL):
        tokens = [r[side]["tokens"] for r in rounds]
        clocks = {clock: [n / r[side][clock] for n, r in zip(tokens, rounds, strict=True)] for clock in ("seconds", "cpu_seconds")}
        summary[side] = {f"tokens_per_{clock}": statistics.median(rates) for clock, rates in clocks.items()}
    for name, clock in (("speedup", "seconds"), ("cpu_speedup", "cpu_seconds")):
        ratios = _ratios(rounds, clock)
        summary[name] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return summary


def _table(rounds: list[dict[str, Any]], options: argparse.Namespace) -> str:
    summary = _summary(rounds)
    lines = ["| | tokens/s | tokens per CPU second |", "|---|---|---|"]
    for side in (OURS, RIVAL):
        lines.append(f"| {side} | {summary[side]['tokens_per_seconds']:.1f} | {summary[side]['tokens_per_cpu_seconds']:.1f} |")
    wall, cpu = summary["speedup"], summary["cpu_speedup"]
    lines.append(
        f"\nspeed-up {wall['median']:.2f} ({wall['min']:.2f} to {wall['max']:.2f}) in tokens/s, "
        f"{cpu['median']:.2f} ({cpu['min']:.2f} to {cpu['max']:.2f}) in tokens per CPU second; {len(rounds)} rounds of "
        f"{options.prompts} prompts, {options.samples} samples, {options.new_tokens} new tokens, {options.threads} threads"
    )
    return "\n".join(lines)


def _report(rounds: list[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.out is None:
        return
    shape = {name: value for name, value in vars(options).items() if name not in ("out", "model")}
    machine = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    report = {
        "model": Path(options.model).name,
        "options": shape,
        "machine": machine,
        "rounds": rounds,
        "summary": _summary(rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(f"# {__doc__.strip()}\n\n{_table(rounds, options)}\n")


if __name__ == "__main__":
    main()
