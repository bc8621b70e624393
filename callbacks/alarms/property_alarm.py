"""Says in words, once, that a run shows one of the paper's three properties, or that reinforcement went wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.panel import Panel
from typing_extensions import override

from callbacks.alarms.property_rules import PROPERTY_RULES
from callbacks.alarms.reinforcement_rules import REINFORCEMENT_RULES
from callbacks.alarms.remedies import CENTRE, advice
from callbacks.alarms.rules import AlarmRule
from callbacks.alarms.watch import Alarm, AlarmWatch
from callbacks.output.console import say
from run_folder.files import append_row, tensorboard_writer


class PropertyAlarm(Callback):
    """Listens to what the other callbacks measured and the module logged; measures nothing itself.

    An alarm comes once a property, to the console, as TensorBoard text `alarms/<property>`, and as a row of
    `<run>/diagnostics/alarms.jsonl` with step, property, message, numbers and the step `since` which its conditions have held. What
    has been heard and said is in the checkpoint. List it after the callbacks it is to hear: of those below it hears one step late.
    How often the default rules are right: docs/results/alarm.

    Args:
        stop: end the run at the first alarm, with a checkpoint where there is a RunCheckpoint.
        rules: instead of the default ones (`callbacks.alarms.property_rules`, `.reinforcement_rules`).
    """

    def __init__(self, stop: bool = False, rules: Sequence[AlarmRule] | None = None) -> None:
        self.stop = stop
        self._watch = AlarmWatch((*PROPERTY_RULES, *REINFORCEMENT_RULES) if rules is None else rules, extra=frozenset({CENTRE}))
        self._console = Console()

    def hear(self, readings: Mapping[str, float]) -> None:
        """Take readings of the current step; diagnostics call it on every rank, with the same numbers."""
        self._watch.hear(readings)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.global_step % int(trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            logged = trainer.callback_metrics
            self.hear({name: float(logged[name]) for name in self._watch.names & logged.keys()})
        self._judge(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Monitors of the probe bank read it once more when training ends.
        self._judge(trainer, pl_module)

    def _judge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = getattr(pl_module, "loss", getattr(pl_module, "kl", None))
        for alarm in self._watch.judge(trainer.global_step, lambda latest: advice(latest, loss)):
            self._announce(trainer, alarm)
            if self.stop:
                # On every rank at the same step: all have heard the same.
                trainer.should_stop = True

    def _announce(self, trainer: Trainer, alarm: Alarm) -> None:
        if not trainer.is_global_zero:
            return
        title = f"{alarm.property.replace('_', ' ')}, step {alarm.step}"
        say(self._console, Panel(alarm.message, title=title, title_align="left", border_style="red"))
        writer = tensorboard_writer(trainer)
        if writer is not None:
            writer.add_text(f"alarms/{alarm.property}", alarm.message, alarm.step)
        row = {"step": alarm.step, "property": alarm.property, "message": alarm.message}
        append_row(trainer, "alarms", {**row, "numbers": alarm.numbers, "since": alarm.since})

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._watch.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._watch.load_state_dict(state_dict)
