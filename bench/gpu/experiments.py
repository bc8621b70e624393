"""Runs every stage once through the command line: three steps of each shipped experiment that needs no hub."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.gpu.rows import PartOptions, part_options

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ("arithmetic_sft", "arithmetic_dpo", "arithmetic_rm", "arithmetic_on_policy_dpo", "arithmetic_ppo", "toy_dpo")


def command(experiment: str, options: PartOptions) -> list[str]:
    """The user's call."""
    precision = "32-true" if options.dry_run or experiment.startswith("toy") else "bf16-mixed"
    config = ROOT / "configs" / "experiment" / f"{experiment}.yaml"
    trainer = {"max_steps": "3", "precision": precision, "accelerator": "cpu" if options.dry_run else "gpu"}
    arguments = [argument for name, value in trainer.items() for argument in (f"--trainer.{name}", value)]
    return [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(config), *arguments]


def main(options: PartOptions) -> None:
    """All at once, each in a folder of its own that sees the assets: one process of them leaves most of a machine idle."""
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for experiment in EXPERIMENTS:
            place = Path(folder) / experiment
            place.mkdir()
            (place / "assets").symlink_to(ROOT / "assets")
            log = (place / "log.txt").open("w", encoding="utf-8")
            running[experiment] = subprocess.Popen(command(experiment, options), cwd=place, stdout=log, stderr=subprocess.STDOUT)
        begin = time.time()
        for experiment, process in running.items():
            code = process.wait()
            lines = (Path(folder) / experiment / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
            words = [line[:300] for line in lines if line.strip()][-40 if code else -6 :]
            options.add(experiment, exit_code=code, seconds=round(time.time() - begin, 1), last_words=words)


if __name__ == "__main__":
    main(part_options())
