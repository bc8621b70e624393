"""Times one DPO step against a peer or against ourselves on the same machine: `python -m bench.step.dpo_step --vs trl`.

Both sides load the same weights and pairs, in the same order, with the same precision, optimizer and effective batch, and
reference log-probs precomputed. Every round runs each side once in a process of its own; the first step of a process warms up
and is not counted. The losses of all steps must agree before anything is printed. A round's speed is the median of its steps,
the ratio is taken round by round, and what is quoted is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.step.workload import SHAPES, build_workload

LOSS_TOLERANCE = 1e-3
"""Float32 rounding alone moves the loss of the next Adam step by about 1e-5."""


@dataclass(frozen=True)
class Contender:
    """A side under a name: its module and the options that make it special."""

    label: str
    module: str
    options: tuple[str, ...] = ()


OURS = Contender("ours", "bench.step.our_side")
RIVALS = {
    "trl": Contender("TRL DPOTrainer", "bench.step.trl_side"),
    "no-diagnostics": Contender("ours, diagnostics off", "bench.step.our_side", ("--diagnostics", "off")),
    "no-sharing": Contender("ours, prompts not shared", "bench.step.our_side", ("--no-shared-prompts",)),
}


def main() -> None:
    """Run the comparison, print a table, write JSON where asked."""
    options = _parse()
    workload = build_workload(options.work / f"{options.shape}-{options.mix}", options.shape, options.mix, _pairs(options))
    rival = RIVALS[options.vs]
    rounds = []
    for number in range(options.rounds):
        # Alternating who goes first keeps a drifting clock from favouring one side.
        order = (OURS, rival) if number % 2 == 0 else (rival, OURS)
        results = {side.label: _run(side, workload, options) for side in order}
        _require_same_losses(results[OURS.label]["losses"], results[rival.label]["losses"])
        rounds.append(results)
        print(f"round {number + 1}/{options.rounds}: " + _round_line(results), file=sys.stderr, flush=True)
    summary = _summary(rounds, rival, options)
    report = {"options": _plain(options), "rounds": rounds, "summary": summary}
    print(_table(summary))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", choices=RIVALS, default="trl", help="what we are measured against")
    parser.add_argument("--mix", choices=["long_response", "long_prompt"], default="long_response")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-6-layers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps a process; the first is not counted")
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--diagnostics", choices=["on", "off"], default="on", help="our callbacks, on our side")
    parser.add_argument("--diagnostics-every", type=int, default=10, help="their cadence in steps")
    parser.add_argument("--work", type=Path, default=Path(".cache/prefscope/bench"), help="folder for weights and pairs")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args()


def _pairs(options: argparse.Namespace) -> int:
    return int(options.steps * options.pairs_per_step)


def _run(side: Contender, workload: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", side.module, "--workload", str(workload)]
    for name in ("steps", "pairs_per_step", "threads", "diagnostics", "diagnostics_every"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += [f"--{name.replace('_', '-')}" for name in ("bf16", "gradient_checkpointing") if getattr(options, name)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, *side.options], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"expected {side.label} to finish, got exit code {done.returncode}:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _require_same_losses(ours: list[float], theirs: list[float]) -> None:
    if len(ours) != len(theirs) or any(abs(a - b) > LOSS_TOLERANCE for a, b in zip(ours, theirs, strict=True)):
        raise RuntimeError(f"expected the same losses on both sides to {LOSS_TOLERANCE}, got {ours} and {theirs}. Not comparable.")


def _step_seconds(result: dict[str, Any]) -> float:
    return float(statistics.median(result["seconds"][1:]))


def _round_line(results: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{label} {_step_seconds(r):.2f} s/step, {r['peak_bytes'] / 2**30:.2f} GiB" for label, r in results.items())


def _summary(rounds: list[dict[str, Any]], rival: Contender, options: argparse.Namespace) -> dict[str, Any]:
    speedups = [_step_seconds(r[rival.label]) / _step_seconds(r[OURS.label]) for r in rounds]
    summary: dict[str, Any] = {}
    for side in (OURS, rival):
        seconds = statistics.median(_step_seconds(r[side.label]) for r in rounds)
        summary[side.label] = {
            "pairs_per_second": options.pairs_per_step / seconds,
            "seconds_per_step": seconds,
            "peak_gib": statistics.median(r[side.label]["peak_bytes"] for r in rounds) / 2**30,
        }
    summary["speedup"] = {"median": statistics.median(speedups), "min": min(speedups), "max": max(speedups)}
    summary["memory_ratio"] = summary[OURS.label]["peak_gib"] / summary[rival.label]["peak_gib"]
    return summary


def _table(summary: dict[str, Any]) -> str:
    lines = ["| | pairs/s | s/step | peak GiB above weights |", "|---|---|---|---|"]
    for label, row in summary.items():
        if isinstance(row, dict) and "pairs_per_second" in row:
            lines.append(f"| {label} | {row['pairs_per_second']:.3f} | {row['seconds_per_step']:.3f} | {row['peak_gib']:.2f} |")
    speedup = summary["speedup"]
    lines.append(
        f"\nspeed-up {speedup['median']:.2f} ({speedup['min']:.2f} to {speedup['max']:.2f}) in pairs/s; "
        f"peak memory {summary['memory_ratio']:.2f} of the other side's"
    )
    return "\n".join(lines)


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


if __name__ == "__main__":
    main()
