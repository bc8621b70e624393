"""Says in words, once, that a run shows one of the paper's three properties, or that reinforcement went wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.panel import Panel
from typing_extensions import override

from callbacks.alarms.property_rules import PROPERTY_RULES
from callbacks.alarms.reinforcement_rules import REINFORCEMENT_RULES
from callbacks.alarms.remedies import CENTRE, advice
from callbacks.alarms.rules import AlarmRule, over_checkpoints
from callbacks.alarms.watch import Alarm, AlarmWatch
from callbacks.base import ReadingListener
from callbacks.output.console import say
from callbacks.schedule import step_of
from run_folder.files import append_row, tensorboard_writer


class PropertyAlarm(ReadingListener):
    """Listens to what the other callbacks measured and the module logged; measures nothing itself.

    An alarm comes once a property, to the console, as TensorBoard text `alarms/<property>`, and as a row of
    `<run>/diagnostics/alarms.jsonl` with step, property, message, numbers and the step `since` which its conditions have held. When
    the run ends, `judged.jsonl` has a verdict on every property, and what could not be judged is said: silence is no all-clear.
    What has been heard and said is in the checkpoint. List it after the callbacks it is to hear: of those below it hears one step
    late. How often the default rules are right: docs/results/alarm.

    Args:
        stop: end the run at the first alarm, with a checkpoint where there is a RunCheckpoint.
        rules: instead of the default ones (`callbacks.alarms.property_rules`, `.reinforcement_rules`).
    """

    def __init__(self, stop: bool = False, rules: Sequence[AlarmRule] | None = None) -> None:
        self.stop = stop
        self._rules = rules
        self._watch = self._watch_of((*PROPERTY_RULES, *REINFORCEMENT_RULES))
        self._console = Console()
        self.is_silent = False
        """Whether nothing is printed: somebody else tells what fired."""

    def _watch_of(self, default: Sequence[AlarmRule]) -> AlarmWatch:
        return AlarmWatch(default if self._rules is None else self._rules, extra=frozenset({CENTRE}))

    def watch_checkpoints(self) -> None:
        """Judge whole checkpoints from now on: the default rules then take one reading for what a step's noise needs several."""
        self._watch = self._watch_of(over_checkpoints(PROPERTY_RULES))

    @override
    def hear(self, readings: Mapping[str, float]) -> None:
        """Take readings of the current step; diagnostics call it on every rank, with the same numbers."""
        self._watch.hear(readings)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not step_of(trainer, batch_idx)[1]:
            return
        if trainer.global_step % int(trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            logged = trainer.callback_metrics
            self.hear({name: float(logged[name]) for name in self._watch.names & logged.keys()})
        self.judge(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Monitors of the probe bank read it once more when training ends.
        self.judge(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.conclude(trainer)

    def conclude(self, trainer: Trainer) -> None:
        """Write what became of each property, and say which could not be judged."""
        verdicts = self._watch.verdicts()
        append_row(trainer, "judged", {"step": trainer.global_step, "verdicts": verdicts})
        if trainer.is_global_zero and not self.is_silent:
            for name, verdict in verdicts.items():
                if "not judged" in verdict:
                    self._console.print(f"Alarm {name.replace('_', ' ')}: {verdict}.", soft_wrap=True, highlight=False)

    def judge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge what has been heard since the last time, and say what fires."""
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
        if not self.is_silent:
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
