"""Measures the output head in bfloat16 at the sizes of a 0.5B model, against full logits and PyTorch's chunked loss."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.gpu.rows import PartOptions, part_options
from bench.gpu.trained_steps import free_memory
from bench.measure import summary, time_in_turn
from bench.parts.head import WAYS, Problem, largest_difference, prepare
from lightning_modules.models.heads.tile_kernels import kernels_for

SIZES = ((8192, 896, 151936), (8192, 576, 49152), (4096, 1536, 151936))
"""(scored positions, hidden width, vocabulary)."""
DRY_RUN = ((64, 32, 512),)


def main(options: PartOptions) -> None:
    """Each size: agreement, then time and memory of each way."""
    dtype = "float32" if options.dry_run else "bfloat16"
    for positions, width, vocab in DRY_RUN if options.dry_run else SIZES:
        name = f"K {positions}, H {width}, V {vocab}"
        if not options.has_time_for(name, 20):
            continue
        problem = Problem(vocab, width, positions, options.device, dtype, torch.get_num_threads())
        options.add(f"{name}: agreement", kernels=kernels_for(options.device).name, largest_difference=largest_difference(problem))
        for way in WAYS:
            run = prepare(way, problem)
            seconds = time_in_turn({way: run}, 7, options.device)
            options.add(f"{name}: {way}", milliseconds=1000 * summary(seconds, way)[way]["wall_seconds"], peak_mib=_peak_mib(run))
            del run
            free_memory()


def _peak_mib(run: Callable[[], None]) -> float | None:
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    floor = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - floor) / 2**20


if __name__ == "__main__":
    main(part_options())
