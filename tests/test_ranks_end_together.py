"""A rank that dies or fails ends the others, with its words, whether they wait for it in a collective or elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, Trainer

from command_line.failures import told
from tests import tiny
from tests.test_random_signals import children
from tests.test_resume import PATIENCE, start
from tests.test_strategies import STRATEGIES

WITHIN = 60.0
"""Seconds in which the others end."""
ROOT = Path(__file__).parent.parent


class Dies(Callback):
    """In step 3 a rank fails or is killed, and the others wait: in the step's collectives, or where no backend looks."""

    def __init__(self, rank: int, how: str, waits: bool = False) -> None:
        self.rank, self.how, self.waits = rank, how, waits

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step < 2:
            return
        if trainer.global_rank == self.rank:
            Path(f"died_{os.getpid()}").touch()
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("expected a judge, got none: this rank gives up.")
        if self.waits:
            time.sleep(10 * PATIENCE)


CASES = [
    ("ddp", 1, "fails", False),
    ("ddp", 1, "killed", False),
    ("ddp", 1, "killed", True),
    ("ddp", 0, "fails", True),
    ("ddp", 0, "killed", False),
    ("ddp", 0, "killed", True),
    ("fsdp2", 1, "fails", False),
    ("fsdp2", 0, "killed", True),
]


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
@pytest.mark.parametrize(("strategy", "rank", "how", "waits"), CASES)
def test_all_end_within_a_minute(strategy: str, rank: int, how: str, waits: bool, tmp_path: Path) -> None:
    dies = {"class_path": "tests.test_ranks_end_together.Dies", "init_args": {"rank": rank, "how": how, "waits": waits}}
    config = {
        "trainer": tiny.trainer(tmp_path, [dies], devices=2, strategy=STRATEGIES[strategy], max_steps=10),
        "model": tiny.module(tmp_path, supervised=True),
        "data": tiny.pair_data(tmp_path, supervised=True),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    process = start(tmp_path, "fit", "--config", "run.yaml")
    deadline = time.monotonic() + PATIENCE
    while not list(tmp_path.glob("died_*")):
        assert process.poll() is None, (tmp_path / "output.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks = [process.pid, *children(process)]
    assert process.wait(WITHIN) != 0
    deadline = time.monotonic() + WITHIN
    while any(Path(f"/proc/{pid}").exists() for pid in ranks[1:]):
        assert time.monotonic() < deadline, "a rank is left"
        time.sleep(0.1)
    said = (tmp_path / "output.txt").read_text(encoding="utf-8")
    if how == "fails":
        assert "error: expected a judge, got none: this rank gives up." in said
    assert "Traceback" not in said
    assert "Nothing here foresaw it" not in said


@pytest.mark.parametrize("is_rank", [True, False])
def test_a_rank_watches_the_process_that_started_it(is_rank: bool, tmp_path: Path) -> None:
    """One that is no rank of a launcher stays: it may be meant to outlive a shell."""
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    lines = "import time; from command_line import ranks_end_together as r; r._SECONDS = 0.05; r.end_with_parent(); "
    work = f"open('began', 'w').close(); time.sleep({20 if is_rank else 1}); open('ended', 'w').close()"
    begin = (
        "import subprocess, sys, time, pathlib; "
        f"subprocess.Popen([sys.executable, '-c', {lines + work!r}]); "
        "[time.sleep(0.01) for _ in range(2000) if not pathlib.Path('began').exists()]"
    )
    environment |= {"PYTHONPATH": str(ROOT)} | ({"LOCAL_RANK": "1"} if is_rank else {})
    started = subprocess.run(
        [sys.executable, "-c", begin], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    # The pipe is shut when the grandchild has ended as well.
    assert (tmp_path / "began").exists()
    assert (tmp_path / "ended").exists() != is_rank
    assert ("so does this one" in started.stderr) == is_rank


def test_a_collective_that_lost_a_peer_is_told_in_words() -> None:
    for text in (
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:17401",
        "NCCL error in: ProcessGroupNCCL.cpp, ncclRemoteError: A call failed possibly due to a network error",
    ):
        assert told(RuntimeError(text)).startswith("another process of the run has ended")


def test_a_slurm_job_goes_on_from_where_it_stopped(tmp_path: Path) -> None:
    """The job script, with stand-ins for SLURM's commands and for a training that USR1 has stopped."""
    for name, does in {"srun": 'echo "$@" >> asked; exit 138', "scontrol": 'echo "$@" >> requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    for version, moment in ((0, 200), (1, 100)):
        folder = tmp_path / f"runs/mine/version_{version}/checkpoints"
        folder.mkdir(parents=True)
        (folder / "last.ckpt").touch()
        os.utime(folder / "last.ckpt", (moment, moment))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    environment |= {"SLURM_NTASKS_PER_NODE": "8"}
    for restarts in ("0", "1"):
        words = ["bash", str(ROOT / "configs/slurm/fit.sbatch"), "configs/mine.yaml", "--trainer.strategy", "ddp"]
        done = subprocess.run(words, cwd=tmp_path, env=environment | {"SLURM_RESTART_COUNT": restarts}, check=False)
        assert done.returncode == 138
    began, went_on = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert "--trainer.num_nodes 2 --trainer.devices 8 --trainer.strategy ddp" in began
    assert "ckpt_path" not in began
    assert "--ckpt_path runs/mine/version_0/checkpoints/last.ckpt --trainer.strategy ddp" in went_on
    assert (tmp_path / "requeued").read_text(encoding="utf-8") == "requeue 7\nrequeue 7\n"
