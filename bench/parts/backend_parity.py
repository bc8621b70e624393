"""Compares every available attention backend, forward and backward, with float64 attention segment by segment."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.models.attention_backends.base import AttentionBackend, AttentionCase
from lightning_modules.models.attention_backends.per_segment import PER_SEGMENT
from lightning_modules.models.attention_backends.selection import BACKENDS
from lightning_modules.models.heads.tile_kernels import failure, fused
from lightning_modules.models.layers.segments import PackedSegments

LENGTHS = [(37, (5, 211)), (1, (1, 1)), (300, (17, 64)), (128, (128, 3))]
"""(prompt, completions): short against long, one token, and the sizes kernels tile by."""


def segments(device: str) -> PackedSegments:
    """Prompts with two completions each."""
    examples = [
        Example((0,) * prompt, tuple(TokenizedCompletion((0,) * n, Role.SAMPLE, "") for n in sides)) for prompt, sides in LENGTHS
    ]
    return PackedSegments.of(pack(examples).to(device))


def outputs(backend: AttentionBackend, rows: list[Tensor], upstream: Tensor, device: str) -> list[Tensor]:
    """Attention, and its gradients of queries, keys and values, in float64."""
    leaves = [row.detach().clone().requires_grad_() for row in rows]
    query, key, value = leaves
    out = backend.attend(query, key, value, segments(device), scaling=rows[0].shape[-1] ** -0.5, softcap=None)
    gradients = torch.autograd.grad(out, leaves, upstream.to(out.dtype))
    return [tensor.detach().double() for tensor in (out, *gradients)]


def measure(device: str, head_dim: int = 64, heads: int = 8, key_heads: int = 2) -> dict[str, dict[str, object]]:
    """Largest error of each backend relative to the largest entry; or why it is not there."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    case = AttentionCase(device, dtype, head_dim, softcap=False)
    generator = torch.Generator().manual_seed(0)
    count = sum(prompt + sum(sides) for prompt, sides in LENGTHS)
    # Rounded first, so that every backend gets the very numbers that float64 gets.
    query, key, value, upstream = (
        torch.randn(count, n, head_dim, generator=generator).to(device, dtype) for n in (heads, key_heads, key_heads, heads)
    )
    exact = outputs(PER_SEGMENT, [row.double() for row in (query, key, value)], upstream.double(), device)
    report: dict[str, dict[str, object]] = {}
    for backend in BACKENDS:
        obstacle = "not installed" if not backend.installed else backend.obstacle(case)
        if obstacle is not None:
            report[backend.name] = {"obstacle": obstacle}
            continue
        try:
            got = outputs(backend, [query, key, value], upstream, device)
        except Exception as error:  # the table says which backend failed and goes on with the next
            report[backend.name] = {"raised": f"{type(error).__name__}: {error}"[:500]}
            continue
        names = ("output", "grad_query", "grad_key", "grad_value")
        errors = [float((ours - best).abs().max() / best.abs().max()) for ours, best in zip(got, exact, strict=True)]
        report[backend.name] = dict(zip(names, errors, strict=True))
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    # The head's fused kernels have a check of their own, against float64 too.
    head = failure(fused(), options.device) or "passed" if options.device == "cuda" else "not fused here"
    options.out.write_text(json.dumps({"backends": measure(options.device), "head_kernels": head}, indent=1) + "\n")
