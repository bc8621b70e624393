"""Everything worth knowing on one CUDA machine, as one JSON table: `bash bench/gpu.sh` (about 8 minutes), or `--dry-run` on a CPU.

Parts, each a command of its own with a time limit, so that one that fails or hangs costs its own figures only:
the machine and its measured matrix-product peak; every attention backend's output and gradients with different query and key
segments against float64 SDPA; the head in bf16 at two vocabularies; attention; DPO steps of three shapes beside TRL's, with and
without diagnostics; model FLOPs utilisation.

MFU here = counted FLOPs of the step / (seconds x measured bf16 peak). Counted: 6 P per packed token (P = parameters outside the
embedding and head; forward 2, backward 4), 6 V H per scored position, and causal attention 12 L H per pair of tokens that see each
other; recomputation is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.workload import SHAPES, Shape, read_lengths


@dataclass(frozen=True)
class Part:
    """One command and what its result is called."""

    name: str
    arguments: tuple[str, ...]
    limit: int
    """Seconds; twenty times as many in a dry run, which asks whether a part runs and not how fast."""


def parts(dry_run: bool, out: Path) -> Iterator[Part]:
    """What is run, the most telling first."""
    device = () if dry_run else ("--device", "cuda", "--dtype", "bfloat16")
    rounds = ("--rounds", "1" if dry_run else "7")
    yield Part("matmul_peak", ("-m", "bench.matmul_peak", "--device", "cpu" if dry_run else "cuda"), 60)
    yield Part("backends", ("-m", "bench.backend_parity", "--device", "cpu" if dry_run else "cuda"), 120)
    shapes = ["dry-run"] if dry_run else ["smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b"]
    for shape in shapes:
        for rival in ("trl", "no-diagnostics", "no-sharing"):
            yield Part(f"step/{shape}/{rival}", _step(shape, rival, dry_run), 150)
    for vocab in ("512",) if dry_run else ("49152", "151936"):
        size = ("--vocab", vocab, "--width", "64", "--positions", "64") if dry_run else ("--vocab", vocab, "--positions", "8192")
        yield Part(f"head/{vocab}", ("-m", "bench.head", *size, *device, *rounds), 90)
    for mix in ("long_response", "long_prompt"):
        pairs = ("--pairs", "2" if dry_run else "16")
        yield Part(f"attention/{mix}", ("-m", "bench.attention", "--mix", mix, *pairs, *device, *rounds), 60)


def _step(shape: str, rival: str, dry_run: bool) -> tuple[str, ...]:
    size = (
        ("--rounds", "1", "--pairs-per-step", "2")
        if dry_run
        else ("--rounds", "3", "--steps", "8", "--pairs-per-step", "16", "--bf16")
    )
    return ("-m", "bench.dpo_step", "--shape", shape, "--vs", rival, *size)


def run(part: Part, out: Path, limit: int) -> dict[str, Any]:
    """The part's JSON, or what went wrong with it."""
    target = out / f"{part.name.replace('/', '_')}.json"
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *part.arguments, "--out", str(target)], capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {limit} s"}
    if done.returncode:
        return {"failed": done.stderr[-1500:]}
    return {"seconds_in_all": time.perf_counter() - started, **json.loads(target.read_text())}


def step_flops(shape: Shape, lengths: list[tuple[int, int, int]]) -> float:
    """Mean FLOPs of one pair, by the module docstring's count."""
    layer = 4 * shape.hidden**2 * (1 + shape.kv_heads / shape.heads) / 2 + 3 * shape.hidden * shape.intermediate
    total = 0.0
    for prompt, chosen, rejected in lengths:
        tokens, targets = prompt + chosen + rejected, chosen + rejected
        seen = prompt**2 / 2 + sum(n * prompt + n**2 / 2 for n in (chosen, rejected))
        total += 6 * shape.layers * layer * tokens + 6 * shape.vocab * shape.hidden * targets
        total += 12 * shape.layers * shape.hidden * seen
    return total / len(lengths)


def with_mfu(table: dict[str, dict[str, Any]]) -> None:
    """Add `mfu` to every step that was measured."""
    peak = table["matmul_peak"].get("flops_per_second")
    for name, result in table.items():
        if name.startswith("step/") and "summary" in result and peak:
            options = result["options"]
            count = options["steps"] * options["pairs_per_step"]
            flops = step_flops(SHAPES[options["shape"]], read_lengths(options["mix"])[:count])
            for label, row in result["summary"].items():
                if isinstance(row, dict) and "pairs_per_second" in row:
                    result.setdefault("mfu", {})[label] = flops * row["pairs_per_second"] / peak


def main() -> None:
    """Run every part, write one table after each, so that a machine taken back leaves what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu"))
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU: that every part runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table: dict[str, dict[str, Any]] = {}
    for part in parts(options.dry_run, options.out):
        table[part.name] = run(part, options.out, part.limit * (20 if options.dry_run else 1))
        with_mfu(table)
        (options.out / "table.json").write_text(json.dumps(table, indent=1) + "\n")
        print(f"{part.name}: {table[part.name].get('failed', 'done')}", flush=True)
    if any("failed" in result for result in table.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
