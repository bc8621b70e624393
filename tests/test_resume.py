"""Kill -9 in the middle of an epoch, resume with --ckpt_path: bit-equal to a run that was not killed.

The killed run has no last step, so that it is always in the middle when the signal comes; it is resumed from a checkpoint in
the middle of an epoch, to the last step of the run that was left alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import tiny

ROOT = Path(__file__).parent.parent
RESUME_STEP, LAST_STEP = 6, 11
PATIENCE = 200.0
"""Seconds to wait for a process before the test fails; nothing depends on it otherwise."""

Config = dict[str, Any]


def part(name: str) -> Config:
    content: Config = yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8"))
    return content


def trainer(name: str) -> Config:
    """A shipped trainer with all its callbacks, measuring often and keeping its checkpoints."""
    config = part(f"trainer/{name}.yaml") | {"accelerator": "cpu", "log_every_n_steps": 2, "enable_model_summary": False}
    config |= {"num_sanity_val_steps": 0}
    # A process of its own draws its page, which takes seconds.
    config["callbacks"] = [each for each in config["callbacks"] if not each["class_path"].endswith("RunReport")]
    for callback in config["callbacks"]:
        arguments = callback.setdefault("init_args", {})
        for cadence in {"every_n_steps", "probe_every_n_steps", "histogram_every_n_steps"} & arguments.keys():
            arguments[cadence] = 3
        if callback["class_path"] == "callbacks.saving.checkpoint.RunCheckpoint":
            arguments |= {"every_n_train_steps": RESUME_STEP, "keep_all": True}
    return config


def sft(folder: Path) -> Config:
    schedule = {
        "class_path": "lightning_modules.optimization.schedules.CosineSchedule",
        "init_args": {"num_steps": 20, "num_warmup_steps": 3},
    }
    return {
        "trainer": trainer("default"),
        "model": tiny.module(folder, supervised=True, lr_scheduler=schedule),
        "data": tiny.pair_data(folder, supervised=True),
    }


def dpo(folder: Path) -> Config:
    return {
        "trainer": trainer("default") | {"accumulate_grad_batches": 2, "val_check_interval": 4},
        "model": tiny.module(folder),
        "data": tiny.pair_data(folder),
    }


def toy(folder: Path) -> Config:
    model, data = part("model/toy_dpo.yaml"), part("data/toy_dpo.yaml")
    model["init_args"]["policy"]["init_args"] |= {"width": 16}
    return {"trainer": trainer("toy_dpo"), "model": model, "data": data}


def start(folder: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """`python train.py` as a user starts it, in `folder`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *(str(argument) for argument in arguments)]
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


def kill_at(checkpoint: Path, process: subprocess.Popen[bytes], output: Path) -> None:
    """Kill -9 as soon as the checkpoint is there."""
    deadline = time.monotonic() + PATIENCE
    while not checkpoint.exists():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.005)
    process.kill()
    assert process.wait(PATIENCE) == -9


def checkpoint_at(run: Path, step: int) -> Path:
    found = list((run / "checkpoints").glob(f"epoch=*-step={step}.ckpt"))
    assert len(found) == 1, sorted(run.rglob("*"))
    return found[0]


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two checkpoints differ, to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield path
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key, "absent"), other.get(key, "absent"), f"{path}/{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{path}/{number}")
    elif one != other:
        yield f"{path}: {one} != {other}"


def final_state(run: Path) -> Config:
    """The last checkpoint but for the paths of the run's own folder."""
    state: Config = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == LAST_STEP
    state["callbacks"] = {key: value for key, value in state["callbacks"].items() if not key.startswith("RunCheckpoint")}
    return state


def scalars(run: Path) -> dict[tuple[str, int], float]:
    """Every TensorBoard point after the resume step."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    points = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    return {key: value for key, value in points.items() if key[1] > RESUME_STEP}


def rows(run: Path) -> dict[str, list[Config]]:
    """Every row of every diagnostic after the resume step."""
    files = sorted((run / "diagnostics").glob("*.jsonl"))
    read = {file.name: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files}
    return {name: [row for row in content if row["step"] > RESUME_STEP] for name, content in read.items()}


@pytest.mark.timeout(3 * PATIENCE)
@pytest.mark.parametrize("make", [sft, dpo, toy], ids=lambda make: make.__name__)
def test_a_killed_run_goes_on_to_the_same_bits(
    make: Callable[[Path], Config], tmp_path: Path, run: Callable[..., LightningCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_dump({"seed_everything": 3} | make(tmp_path))
    for name in ("killed", "whole"):
        (tmp_path / f"{name}.yaml").write_text(config, encoding="utf-8")
    endless = ("--trainer.max_steps", -1, "--trainer.max_epochs", 10**9)
    ending = ("--trainer.max_steps", LAST_STEP, "--trainer.max_epochs", -1)
    killed, resumed, whole = (tmp_path / "runs" / name for name in ("killed/version_0", "killed/version_1", "whole/version_0"))

    process = start(tmp_path, "fit", "--config", "killed.yaml", *endless)
    run("fit", "--config", "whole.yaml", *ending)
    kill_at(killed / "checkpoints" / "last.ckpt", process, tmp_path / "output.txt")
    assert torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= RESUME_STEP
    resumption = start(tmp_path, "fit", "--config", "killed.yaml", *ending, "--ckpt_path", checkpoint_at(killed, RESUME_STEP))
    assert resumption.wait(PATIENCE) == 0, (tmp_path / "output.txt").read_text()

    progress = torch.load(checkpoint_at(whole, RESUME_STEP), weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert not progress["is_last_batch"], "the resumption is to be in the middle of an epoch"
    assert list(differences(final_state(whole), final_state(resumed))) == []
    assert scalars(resumed) == scalars(whole) != {}
    assert rows(resumed) == rows(whole) != {}
