"""KILL, TERM and INT at random moments, in every stage, in one process and in two: no hang, nothing lost, the same bits."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tests import test_resume_ppo, tiny
from tests.test_resume import differences, start

STEPS = 60
PATIENCE = 120.0
"""Seconds to wait for a process before the test fails: a hang."""
SEED = 11
CODES = {signal.SIGKILL: (-9,), signal.SIGTERM: (143,), signal.SIGINT: (130,)}


def config(stage: str, processes: int, folder: Path) -> dict[str, Any]:
    """A run with a checkpoint at every fourth step."""
    if stage == "ppo":
        parts = test_resume_ppo.config(folder)
    else:
        supervised = stage == "sft"
        parts = {"seed_everything": 3, "trainer": tiny.trainer(folder), "model": tiny.module(folder, supervised=supervised)}
        parts["data"] = tiny.pair_data(folder, supervised=supervised, count=400, val_fraction=0)
    if stage == "rm":
        policy = {"path": str(tiny.write_model(folder / "model"))}
        parts["model"] = {
            "class_path": "lightning_modules.reward.RewardModule",
            "init_args": {"reward_model": policy, "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}},
        }
    keeper = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 4}}
    pace = {"class_path": "tests.test_random_signals.Pace"}
    parts["trainer"] |= {"callbacks": [keeper, pace], "max_steps": STEPS, "devices": processes}
    parts["trainer"] |= {"strategy": "ddp"} if processes > 1 else {}
    return parts


class Pace(Callback):
    """A tenth of a second a step, so that signals come in the middle of a run."""

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(0.1)


def newest(runs: Path) -> Path | None:
    """The link to the newest checkpoint of the newest run."""
    found = sorted(runs.rglob("last.ckpt"), key=lambda link: link.lstat().st_mtime)
    return found[-1] if found else None


def children(process: subprocess.Popen[bytes]) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return [int(number) for number in listed.stdout.split()]


def state(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    # Of the run's own folder, and Lightning's counters, which count an epoch twice that is resumed at its very end.
    return {name: value for name, value in loaded.items() if name not in ("callbacks", "loops", "epoch")}


def moments() -> Iterator[tuple[str, int, int, float]]:
    """Twenty-four: every stage and number of processes that it can have, signals and seconds drawn from a seed."""
    draw = random.Random(SEED)
    cases = [("sft", 1), ("dpo", 1), ("rm", 1), ("ppo", 1), ("sft", 2), ("dpo", 2), ("rm", 2), ("ppo", 2)]
    for number in range(24):
        stage, processes = cases[number % len(cases)]
        yield stage, processes, draw.choice(list(CODES)), draw.uniform(0, 4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signals")


@pytest.fixture(scope="module")
def ends() -> dict[tuple[str, int], dict[str, Any]]:
    """Of runs that were left alone, by stage and number of processes; made when first asked for."""
    return {}


def finish(folder: Path, *arguments: object) -> None:
    process = start(folder, "fit", *arguments)
    assert process.wait(PATIENCE) == 0, (folder / "output.txt").read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(5 * PATIENCE)
@pytest.mark.parametrize(("stage", "processes", "sent", "seconds"), list(moments()))
def test_nothing_hangs_and_nothing_is_lost(
    stage: str, processes: int, sent: int, seconds: float, home: Path, ends: dict[tuple[str, int], dict[str, Any]]
) -> None:
    folder = home / f"{stage}_{processes}"
    if (stage, processes) not in ends:
        folder.mkdir()
        (folder / "whole.yaml").write_text(yaml.safe_dump(config(stage, processes, folder)), encoding="utf-8")
        finish(folder, "--config", "whole.yaml")
        last = newest(folder / "runs" / "whole")
        assert last is not None
        ends[stage, processes] = state(last)
    name = f"told_{sent}_{seconds:.3f}"
    (folder / f"{name}.yaml").write_text((folder / "whole.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    process = start(folder, "fit", "--config", f"{name}.yaml")
    deadline = time.monotonic() + PATIENCE
    while newest(folder / "runs" / name) is None:
        assert process.poll() is None, (folder / "output.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(seconds)
    began = children(process)
    process.send_signal(sent)
    assert process.wait(PATIENCE) in CODES[signal.Signals(sent)], (folder / "output.txt").read_text()[-3000:]
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{child}").exists() for child in began):
        assert time.monotonic() < deadline, "a process of the run is left"
        time.sleep(0.1)
    saved = newest(folder / "runs" / name)
    assert saved is not None
    if sent != signal.SIGKILL:
        assert f"after step {state(saved)['global_step']}. Go on with" in (folder / "output.txt").read_text()
    finish(folder, "--config", f"{name}.yaml", "--ckpt_path", saved)
    last = newest(folder / "runs" / name)
    assert last is not None
    assert last != saved
    assert state(last)["global_step"] == STEPS
    assert list(differences(ends[stage, processes], state(last))) == []
