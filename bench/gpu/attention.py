"""Measures one layer's attention in bfloat16: every backend that works, against padding and against a dense block mask."""

from __future__ import annotations

import torch

from bench.gpu.rows import PartOptions, part_options
from bench.gpu.trained_steps import free_memory
from bench.measure import summary, time_in_turn
from bench.parts.attention import Problem, largest_difference, names, prepare

HEADS = ((14, 2, 64), (12, 2, 128))
"""(query heads, key heads, head width): Qwen2.5-0.5B and 1.5B."""


def main(options: PartOptions) -> None:
    """Both mixes of lengths."""
    dtype = "float32" if options.dry_run else "bfloat16"
    for mix in ("long_response", "long_prompt"):
        for heads, key_heads, head_dim in HEADS[:1] if options.dry_run else HEADS:
            pairs = 2 if options.dry_run else 16
            problem = Problem(mix, pairs, heads, key_heads, head_dim, options.device, dtype, torch.get_num_threads())
            name = f"{mix}, {heads}/{key_heads} heads of {head_dim}"
            if not options.has_time_for(name, 8):
                continue
            options.add(f"{name}: agreement", largest_difference=largest_difference(problem))
            for way in names(problem):
                seconds = time_in_turn({way: prepare(way, problem)}, 7, options.device)
                options.add(f"{name}: {way}", milliseconds=1000 * summary(seconds, way)[way]["wall_seconds"])
                free_memory()


if __name__ == "__main__":
    main(part_options())
