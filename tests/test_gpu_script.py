"""The GPU script keeps every figure that was taken, whatever happens to the part that took it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu.rows import PartOptions
from bench.gpu.runner import Part, Run, run_all
from bench.gpu.trained_steps import step_flops
from bench.step.workload import Shape

ROOT = Path(__file__).parent.parent


def rehearse(folder: Path, names: list[str], *, seconds: float = 60, limit: float = 30) -> dict[str, dict[str, object]]:
    parts = [Part(name, "tests.rehearsed_part", 6 if name == "hangs" else limit) for name in names]
    run_all(parts, Run(folder, dry_run=True, deadline=time.time() + seconds))
    table: dict[str, dict[str, object]] = json.loads((folder / "table.json").read_text())
    return table


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_hangs_crashes_or_is_killed_costs_its_own_figures_only(tmp_path: Path) -> None:
    table = rehearse(tmp_path, ["works", "hangs", "crashes", "is killed", "also works"])
    outcomes = {name: str(part["outcome"]) for name, part in table.items()}
    assert outcomes["works"] == outcomes["also works"] == "done"
    assert outcomes["hangs"] == "stopped after 6 s"
    assert outcomes["crashes"].startswith("failed with exit code 1: RuntimeError: expected a kernel, got none")
    assert outcomes["is killed"] == "killed by SIGKILL"
    kept = {name: list(part["rows"]) for name, part in table.items()}  # type: ignore[call-overload]
    assert kept["works"] == ["before", "after"]
    assert kept["hangs"] == kept["crashes"] == kept["is killed"] == ["before"]
    assert kept["also works"] == ["before", "after"], "the line that the kill cut must not swallow the next one"
    child = table["hangs"]["rows"]["before"]["child"]  # type: ignore[index]
    assert not is_running(child), "a grandchild that outlives a time-out holds the GPU"
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) <= 8


def test_nothing_starts_that_could_not_end_before_the_deadline(tmp_path: Path) -> None:
    table = rehearse(tmp_path, ["works"], seconds=8)
    assert str(table["works"]["outcome"]).startswith("not run")


def test_a_measurement_that_no_longer_fits_says_so(tmp_path: Path) -> None:
    options = PartOptions("step", tmp_path / "rows.jsonl", dry_run=False, ends=time.time() + 5)
    assert options.has_time_for("short", 1)
    assert not options.has_time_for("long", 60)
    (row,) = [json.loads(line) for line in options.rows.read_text().splitlines()]
    assert row["name"] == "long"
    assert "60 s needed" in row["skipped"]


def test_flops_of_a_step_by_hand() -> None:
    """One layer, width 4, full heads: q, k, v, o 4 * 16, three products of width 8: 96, so P = 160; V = 10."""
    shape = Shape(layers=1, hidden=4, intermediate=8, heads=2, kv_heads=2, vocab=10)
    tokens, targets, seen = 2 + 3 + 1, 3 + 1, 2 + (6 + 4.5) + (2 + 0.5)
    assert step_flops(shape, [(2, 3, 1)]) == 6 * 160 * tokens + 6 * 10 * 4 * targets + 12 * 4 * seen


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--dry-run", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + (tmp_path / "out" / "log.txt").read_text()[-3000:]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert all(part["rows"] for part in table.values())
    assert not any("failed" in row for part in table.values() for row in part["rows"].values())
