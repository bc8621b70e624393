"""Runs the tests marked `gpu` and keeps their counts and the lines that pytest prints about failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.gpu.rows import PartOptions, part_options

ROOT = Path(__file__).parents[2]


def main(options: PartOptions) -> None:
    """One run of pytest over the files that have such tests."""
    files = sorted(
        str(path) for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    )
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", "--tb=short", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failures = [line[:300] for line in lines if line.startswith(("FAILED", "ERROR"))]
    options.add("pytest -m gpu", exit_code=done.returncode, summary=lines[-1] if lines else "", failures=failures)


if __name__ == "__main__":
    main(part_options())
