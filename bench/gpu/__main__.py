"""Runs all GPU measurements on one CUDA machine in nine minutes: `bash bench/gpu.sh`, or `--dry-run` on a CPU.

Parts in order of worth, one process group each: what the machine is and whether the kernels are right; every stage through the
command line; one step of a 0.5B model;
the output head; attention; compilation, checkpointing and a 1.5B model; sampling; TRL's step beside ours. All figures go to
`rows.jsonl` as they are taken and to `table.json` after each part; what the parts print goes to `log.txt`.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.gpu.runner import Part, Run, run_all

PARTS = (
    Part("machine", "bench.gpu.machine", 60),
    Part("tests", "bench.gpu.gpu_tests", 75),
    Part("experiments", "bench.gpu.experiments", 75),
    Part("step", "bench.gpu.step", 110),
    Part("head", "bench.gpu.head", 60),
    Part("attention", "bench.gpu.attention", 45),
    Part("options", "bench.gpu.options", 120),
    Part("sampling", "bench.gpu.sampling", 60),
    Part("trl", "bench.gpu.trl", 150),
)
"""The most telling first."""
DRY_RUN_FACTOR = 20
"""A CPU that others use takes so many times as long."""


def main() -> None:
    """Run the parts that were asked for; exit code 1 if one of them did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu"))
    parser.add_argument("--dry-run", action="store_true", help="small sizes on the CPU: that every part runs")
    parser.add_argument("--deadline", type=float, default=540.0, help="seconds for all parts together")
    known = {part.name: part for part in PARTS}
    parser.add_argument("--parts", nargs="+", choices=known, default=list(known), help="these only, in this order")
    options = parser.parse_args()
    factor = DRY_RUN_FACTOR if options.dry_run else 1
    parts = [replace(known[name], limit=known[name].limit * factor) for name in options.parts]
    for stale in ("rows.jsonl", "table.json", "log.txt"):
        (options.out / stale).unlink(missing_ok=True)
    run = Run(options.out, options.dry_run, time.time() + options.deadline * factor)
    table = run_all(parts, run)
    if any(result["outcome"] != "done" for result in table.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
