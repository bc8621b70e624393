"""Measures packed attention against padding and against a dense block mask: `python -m bench.parts.attention`.

Forward and backward of one layer's attention over pairs (prompt, chosen, rejected) with the lengths of real data. Every way
computes the same outputs at the completion tokens (checked first). The baseline pads each side of a pair to the longest.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from bench.markdown import publish_page
from bench.measure import machine, peak_bytes, summary, time_in_turn
from bench.step.workload import read_lengths
from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.models.attention_backends.base import AttentionCase
from lightning_modules.models.attention_backends.selection import BACKENDS, BackendSelector
from lightning_modules.models.layers.padded import pad
from lightning_modules.models.layers.segments import PackedSegments

BASELINE = "padded"


@dataclass(frozen=True)
class Problem:
    """Lengths, heads and types."""

    mix: str
    pairs: int
    heads: int
    key_heads: int
    head_dim: int
    device: str
    dtype: str
    threads: int

    def examples(self, *, shared: bool) -> list[Example]:
        """Seeded pairs; without sharing, each completion brings its own copy of the prompt."""
        lengths = random.Random(0).sample(read_lengths(self.mix), self.pairs)
        pairs = [
            Example(_tokens(prompt), tuple(TokenizedCompletion(_tokens(n), Role.SAMPLE, "") for n in sides))
            for prompt, *sides in lengths
        ]
        if shared:
            return pairs
        return [replace(pair, completions=(completion,)) for pair in pairs for completion in pair.completions]

    def batch(self, *, shared: bool) -> CompletionBatch:
        """Those pairs, packed."""
        return pack(self.examples(shared=shared)).to(self.device)


def _tokens(count: int) -> tuple[int, ...]:
    return (0,) * count


def rows_of(problem: Problem) -> tuple[Tensor, ...]:
    """Random query, key, value rows of the shared layout, and upstream gradients."""
    generator = torch.Generator().manual_seed(0)
    rows = problem.batch(shared=True).num_rows
    heads = (problem.heads, problem.key_heads, problem.key_heads, problem.heads)
    made = [torch.randn(rows, count, problem.head_dim, generator=generator) for count in heads]
    return tuple(tensor.to(problem.device, getattr(torch, problem.dtype)) for tensor in made)


Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Way:
    """An attention over its own layout."""

    rows: Tensor
    """`[layout rows]`: row of the shared layout that each of its rows copies."""
    completions: Tensor
    """`[K]`: its rows of the completion tokens, in the order of the sequences."""
    attend: Attention
    """`[rows, heads, D]` queries, keys and values -> outputs."""


def packed(problem: Problem, *, shared: bool, backend: str) -> Way:
    """Ours."""
    batch = problem.batch(shared=shared)
    segments = PackedSegments.of(batch)
    case = AttentionCase(problem.device, getattr(torch, problem.dtype), problem.head_dim, softcap=False)
    chosen = BackendSelector(backend).choose(case)
    scaling = problem.head_dim**-0.5

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return chosen.attend(query, key, value, segments, scaling=scaling, softcap=None)

    rows = torch.arange(batch.num_rows, device=problem.device) if shared else _unshared_rows(problem)
    return Way(rows, _completion_rows(batch), attend)


def _completion_rows(batch: CompletionBatch) -> Tensor:
    """Rows of the batch that hold completion tokens: the segments that see more than themselves."""
    spans = torch.split(torch.arange(batch.num_rows, device=batch.input_ids.device), list(batch.query_lengths))
    return torch.cat([rows for rows, q, k in zip(spans, batch.query_lengths, batch.key_lengths, strict=True) if k > q])


def _unshared_rows(problem: Problem) -> Tensor:
    """A completion's keys in the shared layout are its prompt and itself: the rows of its own packed example."""
    batch = problem.batch(shared=True)
    keys = torch.split(batch.key_index, list(batch.key_lengths))
    return torch.cat([rows for rows, q, k in zip(keys, batch.query_lengths, batch.key_lengths, strict=True) if k > q])


def dense_mask(problem: Problem) -> Way:
    """One call with a block mask over all rows, as transformers makes it from position ids."""
    batch = problem.batch(shared=False)
    examples = batch.position_ids.eq(0).cumsum(0)
    mask = (examples[:, None] == examples[None, :]).tril()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (rows.transpose(0, 1).unsqueeze(0) for rows in _expanded(query, key, value))
        output = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return output[0].transpose(0, 1)

    return Way(_unshared_rows(problem), _completion_rows(batch), attend)


def _expanded(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values once for every query head.

    With a mask and `enable_gqa`, CUDA's fused kernels decline, and the baseline would be slower than what others run.
    """
    copies = query.shape[1] // key.shape[1]
    return query, key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)


def padded(problem: Problem) -> Way:
    """Prompt and completion of each side in a row of its own, on the right padded to the longest."""
    batch = problem.batch(shared=False)
    layout = pad(batch)
    kept = layout.attention_mask.bool().flatten()
    position = kept.long().cumsum(0) - 1
    rows = torch.where(kept, _unshared_rows(problem)[position], 0)
    width = layout.input_ids.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=problem.device).tril()
    mask = causal & layout.attention_mask.bool()[:, None, None, :]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = (tensor.view(*layout.input_ids.shape, *tensor.shape[1:]) for tensor in _expanded(query, key, value))
        q, k, v = (tensor.transpose(1, 2) for tensor in rows)
        output = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return output.transpose(1, 2).flatten(0, 1)

    return Way(rows, kept.nonzero().squeeze(1)[_completion_rows(batch)], attend)


def make(name: str, problem: Problem) -> Way:
    """A way by the name of its row."""
    if name == BASELINE:
        return padded(problem)
    if name == "packed, dense block mask":
        return dense_mask(problem)
    layout, backend = name.split(", ")
    return packed(problem, shared=layout == "prompts shared", backend=backend)


def names(problem: Problem) -> list[str]:
    """Rows of the table: the rivals, and every backend that works here with and without shared prompts."""
    case = AttentionCase(problem.device, getattr(torch, problem.dtype), problem.head_dim, softcap=False)
    usable = [backend.name for backend in BACKENDS if backend.installed and backend.obstacle(case) is None]
    layouts = ("packed", "prompts shared")
    return [BASELINE, "packed, dense block mask", *(f"{layout}, {name}" for layout in layouts for name in usable)]


def prepare(name: str, problem: Problem) -> Callable[[], None]:
    """One way, ready to run forward and backward."""
    torch.set_num_threads(problem.threads)
    way = make(name, problem)
    *leaves, upstream = (tensor[way.rows] for tensor in rows_of(problem))
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def run() -> None:
        torch.autograd.grad(way.attend(*leaves), leaves, upstream)

    return run


def largest_difference(problem: Problem) -> float:
    """Between any two ways' outputs at the completion tokens."""
    query, key, value, _ = rows_of(problem)
    ways = [make(name, problem) for name in names(problem)]
    outputs = [way.attend(query[way.rows], key[way.rows], value[way.rows])[way.completions] for way in ways]
    return max(float((output - outputs[0]).abs().max()) for output in outputs)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mix", choices=["long_response", "long_prompt"], default="long_response")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--key-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = vars(parser.parse_args())
    rounds, out = options.pop("rounds"), options.pop("out")
    problem = Problem(**options)
    torch.set_num_threads(problem.threads)
    difference = largest_difference(problem)
    ways = {name: prepare(name, problem) for name in names(problem)}
    rows = summary(time_in_turn(ways, rounds, problem.device), BASELINE)
    for name, row in rows.items():
        row["peak_mib"] = peak_bytes(prepare, name, problem) / 2**20
    report = {"problem": asdict(problem), "rounds": rounds, "largest_difference": difference}
    report["machine"] = machine(problem.device)
    publish_page("Packed attention against padding", (__doc__ or "").partition("\n\n")[2], report, rows, out)


if __name__ == "__main__":
    main()
