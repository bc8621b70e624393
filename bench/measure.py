"""Times several ways of doing one thing in turn and measures the memory that each adds."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Seconds:
    """One run."""

    wall: float
    cpu: float
    """Of this process, all its threads: hardly disturbed by others on the machine, where there is one thread."""


def time_in_turn(ways: Mapping[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[Seconds]]:
    """Every way once a round, after a round that does not count; so that whatever disturbs the machine disturbs all."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            spent = _time(run, device)
            if number:
                seconds[name].append(spent)
    return seconds


def _time(run: Callable[[], None], device: str) -> Seconds:
    _synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    _synchronize(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(prepare: Callable[..., Callable[[], None]], *arguments: object) -> int:
    """Most memory that `prepare(*arguments)()` adds to what `prepare` left, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_bytes_here, prepare, *arguments).result()


def peak_bytes_here(prepare: Callable[..., Callable[[], None]], *arguments: object) -> int:
    """The same in this process."""
    run = prepare(*arguments)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        floor = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - floor
    # "5" resets the peak resident size (proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    floor = _resident("VmRSS")
    run()
    return _resident("VmHWM") - floor


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    return _resident("VmRSS")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def summary(seconds: Mapping[str, list[Seconds]], baseline: str) -> dict[str, dict[str, float]]:
    """Medians, and the median over rounds of each way's time over the baseline's in the same round."""
    return {
        name: {
            "wall_seconds": median(run.wall for run in runs),
            "cpu_seconds": median(run.cpu for run in runs),
            "wall_ratio": median(run.wall / base.wall for run, base in zip(runs, seconds[baseline], strict=True)),
            "cpu_ratio": median(run.cpu / base.cpu for run, base in zip(runs, seconds[baseline], strict=True)),
        }
        for name, runs in seconds.items()
    }


def machine(device: str) -> dict[str, Any]:
    """What the figures were taken on, and how busy it was."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
    }


def publish(report: Mapping[str, Any], rows: Mapping[str, Mapping[str, float]], out: Path | None) -> None:
    """Print a table, and write the whole report as JSON where `out` says."""
    width = max(map(len, rows))
    columns = list(next(iter(rows.values())))
    print(" " * width, *(f"{column:>14}" for column in columns))
    for name, row in rows.items():
        print(f"{name:{width}}", *(f"{row[column]:14.4g}" for column in columns))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**report, "rows": rows}, indent=1) + "\n", encoding="utf-8")
