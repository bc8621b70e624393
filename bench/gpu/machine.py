"""Describes the machine, measures its peaks, and checks whether attention backends and head kernels are right on it."""

from __future__ import annotations

import importlib
import inspect
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from bench.gpu.rows import PartOptions, part_options
from bench.matmul_peak import best_rate
from bench.parts.backend_parity import measure
from lightning_modules.models.heads.tile_kernels import failure, fused

PACKAGES = ("torch", "triton", "lightning", "transformers", "trl", "datasets", "jsonargparse", "peft", "flash-attn", "flash-attn-4")


def main(options: PartOptions) -> None:
    """Cheapest first."""
    options.add("versions", python=platform.python_version(), cores=os.cpu_count(), **{name: _version(name) for name in PACKAGES})
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        options.add(
            "device", model=properties.name, memory_gib=properties.total_memory / 2**30, sms=properties.multi_processor_count
        )
    options.add("varlen_attn", signature=_varlen_signature())
    options.add("peak", bf16_flops_per_second=best_rate(options.device))
    options.add("copy", bytes_per_second=_copy_rate(options.device))
    for head_dim in (64, 128):
        options.add(f"backends, head width {head_dim}", **measure(options.device, head_dim))
    if options.device == "cuda":
        options.add("head kernels", fused=failure(fused(), "cuda") or "passed")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _varlen_signature() -> str | None:
    if find_spec("torch.nn.attention.varlen") is None:
        return None
    return str(inspect.signature(importlib.import_module("torch.nn.attention.varlen").varlen_attn))


def _copy_rate(device: str) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.randn(1 << (28 if device == "cuda" else 20), device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * source.numel() * source.element_size() / min(seconds)


if __name__ == "__main__":
    main(part_options())
