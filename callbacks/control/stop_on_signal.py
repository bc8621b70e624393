"""Ends a run after SIGTERM, SIGINT or SIGUSR1 at the next step boundary, on all ranks, with its state saved.

Lightning's own handler of SIGTERM broadcasts from inside the handler, which hangs if another collective is under way, saves nothing
and exits with 0; of SIGINT it knows nothing but the exception, and that of SLURM's SIGUSR1 saves in the middle of whatever is
under way. Here a handler sets a flag and nothing else while steps are taken.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn
from torch import distributed
from typing_extensions import override

from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.schedule import step_of
from run_folder.files import run_folder
from run_folder.program import spelled

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(SystemExit):
    """A signal ended the run: exit code 143 (SIGTERM), 130 (SIGINT) or 138 (SIGUSR1, which schedulers send before a limit)."""


class StopOnSignal(Callback):
    """Ends the run when the process, or that of any other rank, is told to.

    Within a step, or a batch of an evaluation, the signal waits for its end; training is then saved by `RunCheckpoint`. Before the
    first step there is nothing to save, and the process ends at once. `train.py` puts it behind all other callbacks.

    Ranks agree on the host, once an optimizer step and only where there are several: no device waits for it. It takes the place of
    a broadcast that Lightning reads off the device before every batch.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._is_busy = False
        self._stops_after_validation = False
        self._trainer: Trainer | None = None
        self._group: distributed.ProcessGroup | None = None
        self._pid = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside, if this is the main thread; another may not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        originals = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in originals.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A worker that loads data has inherited the handler: the process that trains decides for it.
        if os.getpid() != self._pid or self._asked:
            return
        self._asked = number
        name = signal.Signals(number).name
        if self._is_busy:
            # Not print: the handler may have interrupted one.
            os.write(2, f"\n{name}: the run stops after this step, and is saved.\n".encode())
            return
        launcher = None if self._trainer is None else self._trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            # They may wait for this process in a collective, where no handler runs, and have nothing to lose.
            launcher.kill(signal.SIGKILL)
        os.write(2, f"\n{name}: the run stops before its first step; there is nothing to save.\n".encode())
        raise Stopped(128 + number)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        # Lightning calls these two whatever other handlers there are.
        trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() != "gloo":
            self._group = distributed.new_group(backend="gloo")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._is_busy = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_busy = True

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not step_of(trainer, batch_idx)[1]:
            return
        number = self._agreed()
        # A run that has taken its last step ends by itself, and exports.
        if not number or trainer.should_stop or trainer.global_step == trainer.estimated_stepping_batches:
            return
        for keeper in trainer.checkpoint_callbacks:
            if isinstance(keeper, RunCheckpoint):
                keeper.save_now(trainer)
                keeper.finish(trainer)
        # A validation that belongs to this step would be lacking: a resumed run goes on after it.
        loop = trainer.fit_loop
        self._stops_after_validation = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # type: ignore[arg-type]
        if not self._stops_after_validation:
            self._stop(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._stops_after_validation:
            self._stop(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_busy = False

    @override
    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._start_batch(trainer)

    @override
    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._end_batch(trainer)

    @override
    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._start_batch(trainer)

    @override
    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._end_batch(trainer)

    @override
    def on_predict_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._start_batch(trainer)

    @override
    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._end_batch(trainer)

    def _start_batch(self, trainer: Trainer) -> None:
        self._is_busy = self._is_busy or trainer.state.fn != TrainerFn.FITTING

    def _end_batch(self, trainer: Trainer) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._is_busy = False
            if self._agreed():
                self._stop(trainer)

    def _agreed(self) -> int:
        """The signal that any rank has been sent; 0 for none. A collective on the host."""
        if not distributed.is_available() or not distributed.is_initialized():
            return self._asked
        vote = torch.tensor(self._asked)
        distributed.all_reduce(vote, op=distributed.ReduceOp.MAX, group=self._group)
        self._asked = int(vote)
        return self._asked

    def _stop(self, trainer: Trainer) -> None:
        name = signal.Signals(self._asked).name
        if trainer.is_global_zero:
            os.write(2, f"\n{name}: stopped {self._way_on(trainer)}\n".encode())
        # Lightning kills the first process of a node when one that it started ends with another code than 0.
        environment = trainer._accelerator_connector.cluster_environment
        is_child = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
        raise Stopped(0 if is_child else 128 + self._asked)

    def _way_on(self, trainer: Trainer) -> str:
        if trainer.state.fn != TrainerFn.FITTING:
            return "between two batches. What was written stays; the same command goes on from there, or begins anew."
        saved = [keeper.newest for keeper in trainer.checkpoint_callbacks if isinstance(keeper, RunCheckpoint) and keeper.newest]
        if not saved:
            return f"after step {trainer.global_step}. Nothing was saved: no RunCheckpoint is among the callbacks."
        folder = run_folder(trainer)
        config = "<config>" if folder is None else str(folder / "config.yaml")
        command = f"{spelled('python train.py fit')} {shlex.join(['--config', config, '--ckpt_path', saved[-1]])}"
        return f"after step {trainer.global_step}. Go on with: {command}"
