"""Runs the monitors of a training on saved checkpoints: the reference as step 0, each checkpoint as a later step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from typing_extensions import override

from callbacks.alarms.property_alarm import PropertyAlarm
from callbacks.base import BatchDiagnostic, ReadingListener
from callbacks.diagnostics.checkpoints.checkpoint_pairs import CheckpointPairs
from callbacks.diagnostics.probe_bank import ProbeMonitor
from callbacks.mathematics.leaf_gradients import with_gradients
from callbacks.output.run_summary import summary_lines, summary_table
from callbacks.schedule import Scheduled
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasCheckpoints
from lightning_modules.models.policy import PolicySpec
from lightning_modules.token_stats import TokenStats
from run_folder.files import run_folder
from run_folder.program import spelled
from run_folder.rows import tracks_of

_CALLED = {"on_fit_start", "on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_end"}
"""Hooks of a monitor that a diagnosis stands for; of `on_train_batch_end` it takes what `BatchDiagnostic` reads there."""


class _TrainerAt:
    """The trainer, but that `global_step` says where a policy stands that was trained elsewhere: Lightning's counts its own."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self._trainer = trainer
        self.global_step = step

    def __getattr__(self, name: str) -> object:
        return getattr(self._trainer, name)


def _at(trainer: Trainer, step: int) -> Trainer:
    return cast(Trainer, _TrainerAt(trainer, step))


class StaticDiagnosis(ReadingListener):
    """Runs the monitors of a training within `validate`: same rows, same metrics, no step taken.

    They see what they would have seen: a start with the reference, every pair under each checkpoint with the gradients the loss
    would have had, and an end with each checkpoint. So bank values are those a live run writes, and readings of the pairs are means
    over all of them. Prints log-likelihoods before and after (the paper's Table 1). A PropertyAlarm, here or among the trainer's
    callbacks, judges every checkpoint as it judges a step.

    Args:
        monitors: callbacks as a training has them; their cadences do not matter.

    Raises:
        ValueError: if one of them acts on hooks that a diagnosis has not.
    """

    def __init__(self, monitors: list[Callback]) -> None:
        for monitor in monitors:
            _require_monitor(monitor)
        self.monitors = monitors
        self._pairs = CheckpointPairs()
        self._console = Console()
        self._last_step = 0

    @override
    def hear(self, readings: Mapping[str, float]) -> None:
        """Tell the listeners among the monitors, which no diagnostic of the trainer's own knows."""
        for monitor in self.monitors:
            if isinstance(monitor, ReadingListener):
                monitor.hear(readings)

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _is_validating(trainer):
            return
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "expected trainer.inference_mode: false, got true: the gradients of the loss are measured too. Set it."
            )
        module = require(pl_module, HasCheckpoints)
        for alarm in self.alarms(trainer):
            alarm.watch_checkpoints()
        own, (*earlier, self._last_step) = module.policy, module.series
        module.stand_in(module.reference_spec)
        at_start = _at(trainer, 0)
        for monitor in self.monitors:
            monitor.on_fit_start(at_start, pl_module)
        for monitor in self.monitors:
            monitor.on_train_start(at_start, pl_module)
        for step in earlier:
            self.read_checkpoint(trainer, pl_module, step, module.series[step])
        module.policy = own

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: CompletionBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if _is_validating(trainer):
            for monitor in self.monitors:
                monitor.on_train_batch_start(_at(trainer, self._last_step), pl_module, batch, batch_idx)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: CompletionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if _is_validating(trainer):
            self._read(pl_module, batch, outputs["step"].stats)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _is_validating(trainer):
            return
        self._end(_at(trainer, self._last_step), pl_module)
        self.read_later(trainer, pl_module)
        for alarm in self.alarms(trainer):
            alarm.conclude(_at(trainer, self._last_step))
        self.conclude(trainer)

    def read_later(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called when the module's checkpoints have been read: room for those that come later. None by default."""

    def on_checkpoint_read(self, trainer: Trainer) -> None:
        """Called when the rows of a checkpoint are written and judged."""

    def conclude(self, trainer: Trainer) -> None:
        """Say what was found: a table of before and after, and how to make the page."""
        folder = run_folder(trainer)
        if trainer.is_global_zero and folder is not None:
            lines = summary_lines(tracks_of(folder), first_step=0)
            if lines:
                self._console.print(summary_table(lines, self._last_step))
            self._console.print(f"Page:  {spelled(f'python report.py {folder}')}", soft_wrap=True, highlight=False)

    def read_checkpoint(self, trainer: Trainer, pl_module: LightningModule, step: int, spec: PolicySpec) -> None:
        """Read all pairs and the bank under a checkpoint that stands at a step."""
        require(pl_module, HasCheckpoints).stand_in(spec)
        self._last_step = max(self._last_step, step)
        self._look_at_all(_at(trainer, step), pl_module)

    def _look_at_all(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates with another policy than the module's own."""
        # As many batches as Lightning shows the module: of the others no reference log-probs may be known.
        shown = islice(trainer.val_dataloaders, int(sum(trainer.num_val_batches)))  # type: ignore[arg-type]
        for number, batch in enumerate(shown):
            on_device = batch.to(pl_module.device)
            for monitor in self.monitors:
                monitor.on_train_batch_start(trainer, pl_module, on_device, number)
            with trainer.precision_plugin.forward_context():
                self._read(pl_module, on_device, pl_module.policy(on_device))  # type: ignore[operator]
        self._end(trainer, pl_module)

    def _read(self, pl_module: LightningModule, batch: CompletionBatch, stats: TokenStats) -> None:
        module = require(pl_module, HasCheckpoints)
        output = with_gradients(module, batch, stats)
        self._pairs.read(output, module.metrics(output, batch))
        for monitor in self.monitors:
            if isinstance(monitor, BatchDiagnostic):
                monitor.read([monitor.measure(output, batch)])

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for monitor in self.monitors:
            # Monitors of the bank read it when a training ends, and write it with the rest; others write at their steps alone.
            if isinstance(monitor, BatchDiagnostic) and not isinstance(monitor, Scheduled):
                monitor.flush(trainer)
            if not isinstance(monitor, PropertyAlarm):
                monitor.on_train_end(trainer, pl_module)
        self._pairs.flush(trainer)
        for alarm in self.alarms(trainer):
            alarm.judge(trainer, pl_module)
        self.on_checkpoint_read(trainer)

    def alarms(self, trainer: Trainer) -> list[PropertyAlarm]:
        """Those that judge the checkpoints, wherever they are listed."""
        given = [*self.monitors, *trainer.callbacks]  # type: ignore[attr-defined]
        return [callback for callback in given if isinstance(callback, PropertyAlarm)]


def _require_monitor(monitor: Callback) -> None:
    if isinstance(monitor, PropertyAlarm):
        return
    own = {name for name in dir(Callback) if name.startswith("on_") and _overrides(monitor, name, Callback)}
    missed = sorted(own - _CALLED - {"on_save_checkpoint", "on_load_checkpoint"})
    steps = (Callback, BatchDiagnostic, Scheduled)
    if _overrides(monitor, "on_train_batch_end", *steps) and not _overrides(monitor, "on_train_end", Callback):
        missed.append("on_train_batch_end")
    if isinstance(monitor, BatchDiagnostic):
        missed += [] if monitor.reads == BatchDiagnostic.reads else [f"the {monitor.reads} of a step"]
        missed += ["end_step"] if _overrides(monitor, "end_step", BatchDiagnostic, ProbeMonitor) else []
    if missed or isinstance(monitor, ReadingListener):
        raise ValueError(
            f"expected monitors that read pairs, the start and the end of a training, got {type(monitor).__name__}, which "
            f"acts on {', '.join(missed) or 'the steps of one'}: a diagnosis takes no step. Leave it out."
        )


def _overrides(monitor: Callback, name: str, *bases: type[Callback]) -> bool:
    return getattr(type(monitor), name) not in [getattr(base, name) for base in bases]


def _is_validating(trainer: Trainer) -> bool:
    """Whether this is the command, not a validation within a training."""
    return bool(trainer.state.fn == TrainerFn.VALIDATING)
