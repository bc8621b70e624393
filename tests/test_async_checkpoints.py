"""`--trainer.plugins AsyncCheckpointIO`: a thread writes while the training goes on, and a checkpoint is whole or not there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.multiprocessing.spawn import ProcessExitedException
from torch.optim import AdamW

from bench.gloo import together
from callbacks.control.stop_on_signal import StopOnSignal, Stopped
from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.checkpoint_file import ThreadedFileIO, require_whole
from lightning_modules.sft import SFTModule
from tests.killing import die
from tests.lightning_modules.ppo.rig import fit
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs
from tests.test_resume import differences
from tests.test_resume_changed import config

Run = Callable[..., LightningCLI]
Write = Callable[[Mapping[str, Any], str], Path]
STEPS = 6

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]


def train(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, later: bool = True) -> Trainer:
    """Six steps, with a checkpoint at every second one."""
    module, data = SFTModule(TINY, optimizer=partial(AdamW, lr=1e-2)), InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1)
    options: dict[str, Any] = {"max_steps": STEPS, "enable_checkpointing": True}
    options |= {"plugins": [AsyncCheckpointIO()]} if later else {}
    return fit(folder, module, data, [RunCheckpoint(every_n_train_steps=2, max_share=None), *callbacks], ckpt_path, **options)


def last(folder: Path) -> Path:
    [link] = folder.rglob("last.ckpt")
    return link


def assert_same(one: Path, other: Path) -> None:
    """All but the names of folders, and Lightning's counters, which count an epoch twice that is resumed at its very end."""
    states = [torch.load(path, weights_only=True) for path in (one, other)]
    for state in states:
        del state["callbacks"], state["loops"], state["epoch"]
    assert list(differences(*states)) == []


class Gate(Callback):
    """Keeps the file of step 4 from being written until step 5 was taken; notes what a killed run would find after each step."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.opened, self.found = folder, threading.Event(), dict[int, str]()
        save = torch.save

        def gated(state: dict[str, Any], file: Any) -> None:
            assert state["global_step"] != 4 or self.opened.wait(100)
            save(state, file)

        monkeypatch.setattr(torch, "save", gated)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        plugin = trainer.strategy.checkpoint_io
        assert isinstance(plugin, ThreadedFileIO)
        if trainer.global_step == 2:
            plugin.finish()
        if trainer.global_step > 1:
            require_whole(last(self.folder))
            self.found[trainer.global_step] = last(self.folder).resolve().name
        if trainer.global_step == 5:
            self.opened.set()


def test_training_goes_on_while_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "at_once", later=False)
    gate = Gate(tmp_path / "later", monkeypatch)
    train(tmp_path / "later", gate)
    # Step 4 was saved before the fifth began: until it is whole, the older one is there and the link points to it.
    assert {step: name.split("=")[-1] for step, name in gate.found.items()} == dict.fromkeys((2, 3, 4, 5), "2.ckpt")
    assert last(tmp_path / "later").resolve().name.endswith("step=6.ckpt")
    assert_same(last(tmp_path / "later"), last(tmp_path / "at_once"))
    names = [sorted(path.name for path in last(tmp_path / name).parent.iterdir()) for name in ("later", "at_once")]
    assert names[0] == names[1]


def killed_while_writing(folder: Path) -> None:
    """In a process of its own: dies when half of step 4's file is on the disk."""
    save = torch.save

    def half(state: dict[str, Any], file: Any) -> None:
        save(state, file)
        if state["global_step"] == 4:
            file.truncate(file.tell() // 2)
            die()

    torch.save = half  # type: ignore[assignment]
    train(folder)


def test_a_run_that_is_killed_while_a_file_is_written_has_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        together(1, killed_while_writing, tmp_path / "killed")
    found = last(tmp_path / "killed")
    require_whole(found)
    assert found.resolve().name.endswith("step=2.ckpt")
    train(tmp_path / "resumed", ckpt_path=found)
    train(tmp_path / "whole")
    assert_same(last(tmp_path / "resumed"), last(tmp_path / "whole"))


class Told(Callback):
    """SIGTERM in the third step."""

    def __init__(self, stop: StopOnSignal) -> None:
        self.stop = stop

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            self.stop._handle(15, None)


def test_a_run_that_is_stopped_says_what_is_on_the_disk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopOnSignal()
    with pytest.raises(Stopped):
        train(tmp_path, Told(stop), stop)
    found = last(tmp_path)
    require_whole(found)
    assert found.resolve().name.endswith("step=3.ckpt")
    assert f"--ckpt_path {found.resolve()}" in capfd.readouterr().err


def test_a_full_disk_ends_the_run_and_the_older_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full(state: dict[str, Any], file: Any) -> None:
        if state["global_step"] == 4:
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path)
    require_whole(last(tmp_path))
    assert last(tmp_path).resolve().name.endswith("step=2.ckpt")
    assert not list(tmp_path.rglob(".epoch*"))


def test_a_copy_has_a_tied_weight_once(tmp_path: Path) -> None:
    weight = torch.ones(1000)
    plugin, state = ThreadedFileIO(), {"a": weight, "b": weight, "c": weight[:10]}
    plugin.save_checkpoint(state, tmp_path / "later.ckpt")
    weight.zero_()
    plugin.finish()
    written = torch.load(tmp_path / "later.ckpt", weights_only=True)
    assert written["a"].data_ptr() == written["b"].data_ptr()
    assert (written["a"] == 1).all()
    assert (written["c"] == 1).all()
    plugin.teardown()


def test_it_is_one_option_and_refused_where_all_processes_write(tmp_path: Path, run: Run, write_config: Write) -> None:
    experiment = write_config(config("sft", tmp_path), "run")
    cli = run("fit", "--config", experiment, "--trainer.plugins", "AsyncCheckpointIO", "--trainer.max_steps", 2)
    assert isinstance(cli.trainer.strategy.checkpoint_io, ThreadedFileIO)
    require_whole(last(tmp_path))
    trainer = Trainer(accelerator="cpu", strategy=ModelParallelStrategy(), plugins=[AsyncCheckpointIO()], logger=False)
    trainer.strategy.connect(SFTModule(TINY, optimizer=AdamW))
    with pytest.raises(ValueError, match="written by all processes, each its part, got AsyncCheckpointIO"):
        RunCheckpoint().setup(trainer, LightningModule(), "fit")
