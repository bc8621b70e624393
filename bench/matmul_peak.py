"""Measures the machine's own peak for MFU: the best of several large matrix products (bf16 on CUDA, float32 on a CPU)."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch


def best_rate(device: str) -> float:
    """FLOP/s of an N x N x N product on random data: N = 8192 on CUDA, 1024 on a CPU."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(12):
        _wait(device)
        begin = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        times.append(time.perf_counter() - begin)
    return float(2 * size**3 / min(times))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    options.out.write_text(json.dumps({"device": name, "torch": torch.__version__, "flops_per_second": best_rate(options.device)}))
