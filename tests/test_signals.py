"""SIGTERM, SIGINT and SIGUSR1: the run stops after its step, is saved, and goes on to the bits of one that was not stopped.

The signals are real, sent by the process to itself at a chosen moment; `test_random_signals.py` sends them from outside.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI

from callbacks.control.stop_on_signal import StopOnSignal
from datamodules.pool.files import read_pool
from tests import test_resume_ppo, tiny
from tests.test_resume import differences
from tests.test_sampling import sampling_config

Run = Callable[..., LightningCLI]
Write = Callable[[Mapping[str, Any], str], Path]
LAST_STEP = 8
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 138}

pytestmark = pytest.mark.filterwarnings("ignore:Rollout", "ignore:You have overridden `on_after_batch_transfer`")


class SignalAt(Callback):
    """Sends this process a signal when it enters a hook for the `count`-th time."""

    def __init__(self, hook: str, count: int, number: int) -> None:
        self.left, self.number = count, number
        setattr(self, hook, self._enter)

    def _enter(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def signal_at(hook: str, count: int, number: int) -> dict[str, Any]:
    return {
        "class_path": "tests.test_signals.SignalAt",
        "init_args": {"hook": hook, "count": count, "number": int(number)},
    }


def sft(folder: Path) -> dict[str, Any]:
    """Two microbatches a step, and a validation after every second step; checkpoints are rare."""
    checkpoint = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 100}}
    likelihood = {"class_path": "callbacks.diagnostics.likelihood.LikelihoodMonitor", "init_args": {"every_n_steps": 1}}
    options = {"accumulate_grad_batches": 2, "val_check_interval": 4, "max_epochs": -1}
    return {
        "seed_everything": 3,
        "trainer": tiny.trainer(folder, [checkpoint, likelihood], **options),
        "model": tiny.module(folder, supervised=True),
        "data": tiny.pair_data(folder, supervised=True, count=48),
    }


def final_state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {key: value for key, value in state["callbacks"].items() if not key.startswith("RunCheckpoint")}
    return state | {"callbacks": kept}


def logged(runs: Path) -> dict[tuple[str, str], float]:
    """Every number of every metric, by name and step, over all of the runs' folders."""
    points: dict[tuple[str, str], float] = {}
    for file in sorted(runs.rglob("metrics.csv")):
        header, *lines = (line.split(",") for line in file.read_text().splitlines())
        rows = (dict(zip(header, line, strict=True)) for line in lines)
        points |= {(name, row["step"]): float(value) for row in rows for name, value in row.items() if value and name != "epoch"}
    return points


# The first signal comes in the second microbatch of a step that is followed by a validation, the second in a validation.
MOMENTS = {
    "sft": [
        ("on_train_batch_start", 8, signal.SIGINT, 4),
        ("on_validation_batch_start", 1, signal.SIGUSR1, 3),
    ],
    "ppo": [("on_train_batch_start", 3, signal.SIGTERM, 3)],
}


@pytest.mark.parametrize("stage", MOMENTS)
def test_a_stopped_run_goes_on_to_the_same_bits(
    stage: str, tmp_path: Path, run: Run, write_config: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    make = sft if stage == "sft" else test_resume_ppo.config
    run("fit", "--config", write_config(make(tmp_path), "whole"), "--trainer.max_steps", LAST_STEP)
    whole = final_state(tmp_path / "runs/whole/version_0")
    for number, (hook, count, sent, step) in enumerate(MOMENTS[stage]):
        name = f"stopped{number}"
        parts = make(tmp_path)
        parts["trainer"]["callbacks"].append(signal_at(hook, count, sent))
        with pytest.raises(SystemExit) as ended:
            run("fit", "--config", write_config(parts, name), "--trainer.max_steps", LAST_STEP)
        assert ended.value.code == CODES[sent]
        [checkpoint] = (tmp_path / f"runs/{name}").rglob(f"*step={step}.ckpt")
        config = tmp_path / f"runs/{name}/version_0/config.yaml"
        said = capfd.readouterr().err
        assert f"stopped after step {step}. Go on with: python train.py fit --config {config} --ckpt_path {checkpoint}" in said
        # The signal's own callback has no state, so that the run goes on without it.
        again = write_config(make(tmp_path), name)
        run("fit", "--config", again, "--trainer.max_steps", LAST_STEP, "--ckpt_path", checkpoint)
        [resumed] = (tmp_path / f"runs/{name}").rglob(f"*step={LAST_STEP}.ckpt")
        assert list(differences(whole, final_state(resumed.parent.parent))) == []
        assert logged(tmp_path / "runs" / name) == logged(tmp_path / "runs/whole") != {}


def test_before_the_first_step_it_ends_at_once(tmp_path: Path, run: Run, write_config: Write) -> None:
    parts = sft(tmp_path)
    parts["trainer"]["callbacks"].append(signal_at("on_fit_start", 1, signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        run("fit", "--config", write_config(parts, "early"), "--trainer.max_steps", LAST_STEP)
    assert ended.value.code == 143
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_in_its_last_step_a_run_ends_by_itself(tmp_path: Path, run: Run, write_config: Write) -> None:
    parts = sft(tmp_path)
    parts["trainer"]["callbacks"] += [
        signal_at("on_train_batch_start", 2 * LAST_STEP, signal.SIGTERM),
        {"class_path": "callbacks.saving.policy_export.PolicyExport"},
    ]
    run("fit", "--config", write_config(parts, "last"), "--trainer.max_steps", LAST_STEP)
    assert (tmp_path / "runs/last/version_0/policy/model.safetensors").is_file()


def test_sampling_stops_between_batches_and_goes_on(tmp_path: Path, run: Run, write_config: Write) -> None:
    run("predict", "--config", write_config(sampling_config(tmp_path, "whole.jsonl"), "whole"))
    parts = sampling_config(tmp_path, "pool.jsonl")
    parts["trainer"]["callbacks"].append(signal_at("on_predict_batch_end", 2, signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        run("predict", "--config", write_config(parts, "stopped"))
    assert ended.value.code == 143
    assert len(read_pool(tmp_path / "pool.jsonl")[0]) == 8
    run("predict", "--config", write_config(sampling_config(tmp_path, "pool.jsonl"), "again"))
    assert read_pool(tmp_path / "pool.jsonl")[0] == read_pool(tmp_path / "whole.jsonl")[0]


@pytest.mark.parametrize("stage", [pytest.param("validate", marks=pytest.mark.slow), "test"])
def test_evaluations_stop_too(stage: str, tmp_path: Path, run: Run, write_config: Write) -> None:
    parts = sft(tmp_path)
    parts["data"]["init_args"]["test"] = parts["data"]["init_args"]["train"]
    hook = "on_validation_batch_end" if stage == "validate" else "on_test_batch_end"
    parts["trainer"]["callbacks"].append(signal_at(hook, 1, signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        run(stage, "--config", write_config(parts, "stopped"))
    assert ended.value.code == 130


def test_handlers_are_put_back_and_a_child_does_not_decide() -> None:
    before = [signal.getsignal(number) for number in CODES]
    stop = StopOnSignal()
    with stop.listening():
        assert signal.getsignal(signal.SIGTERM) == stop._handle
        # As in a worker that loads data, which the terminal tells as well: it works on.
        stop._pid += 1
        stop._handle(signal.SIGINT, None)
        assert not stop._asked
    assert [signal.getsignal(number) for number in CODES] == before
