"""Options, memory reading and JSON report that both sides of the step benchmark share."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Side:
    """One timed process."""

    workload: Path
    steps: int
    pairs_per_step: int
    threads: int
    learning_rate: float
    bf16: bool
    gradient_checkpointing: bool
    diagnostics: bool
    diagnostics_every: int
    share_prompts: bool

    def memory_floor(self) -> int:
        """Bytes in use now (weights loaded); the peak counts from here."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        # "5" resets the peak resident size (proc(5), clear_refs).
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmRSS")

    def report(self, marks: list[float], losses: list[float], floor: int) -> dict[str, Any]:
        """`marks`: start of training, then the end of every step (seconds); the peak is read now."""
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status_bytes("VmHWM")
        seconds = [end - begin for begin, end in pairwise(marks)]
        return {"seconds": seconds, "losses": losses, "peak_bytes": peak - floor}


def add_side_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a timed process."""
    parser.add_argument("--workload", type=Path, required=True, help="folder written by bench.step.workload")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pairs-per-step", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--bf16", action="store_true", help="bf16-mixed: float32 weights, bf16 matrix products")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--diagnostics", choices=["on", "off"], default="on", help="our callbacks; the peer has none")
    parser.add_argument("--diagnostics-every", type=int, default=10, help="their cadence in steps")
    parser.add_argument("--no-shared-prompts", action="store_true", help="ours: store the prompt once per completion instead")


def side_from(options: argparse.Namespace) -> Side:
    """The parsed options."""
    return Side(
        workload=options.workload,
        steps=options.steps,
        pairs_per_step=options.pairs_per_step,
        threads=options.threads,
        learning_rate=options.learning_rate,
        bf16=options.bf16,
        gradient_checkpointing=options.gradient_checkpointing,
        diagnostics=options.diagnostics == "on",
        diagnostics_every=options.diagnostics_every,
        share_prompts=not options.no_shared_prompts,
    )


def now() -> float:
    """Seconds, with the device idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"expected {field} in /proc/self/status, got none. Memory is measured on Linux only.")
