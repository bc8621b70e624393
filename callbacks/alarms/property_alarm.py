"""The callback that says which of the paper's properties a run shows, and warns once when the run is likely to do harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.panel import Panel
from torch import Tensor
from typing_extensions import override

from callbacks.alarms.calibration import Setting
from callbacks.alarms.harm import HarmWatch, Judgement, message
from callbacks.alarms.notices import KL_RATIO, NOTICES, PREFIX, PROPERTY_NOTICES
from callbacks.alarms.rules import AlarmRule, over_checkpoints
from callbacks.alarms.watch import Alarm, AlarmWatch
from callbacks.base import ReadingListener
from callbacks.output.console import say
from callbacks.schedule import step_of
from datamodules.contracts.stores import require
from lightning_modules.contracts import HasPolicy
from run_folder.files import append_row
from run_folder.shown import show_text
from run_folder.verdict import HARM

ROWS, HARM_ROWS, JUDGED_ROWS = "alarms", "harm", "judged"
_KL, _ENTROPY = "objective/kl", "objective/entropy"
_CLASSES = ("shared", "divergent", "overlap", "novel")


class PropertyAlarm(ReadingListener):
    """Listens to what the other callbacks measured and the module logged; measures nothing itself.

    A *notice* says that a property shows: a fact with its size, once a property, a line. A *warning* comes once a run, when it is
    likely to end worse than it began: its probability, what moved it, what it was calibrated on, and whether this run is outside
    of that (docs/results/verdict). Both go to the console, to TensorBoard's text, and as rows with `level`, `step`, `property`,
    `message`, `probability` and `numbers` to `<run>/diagnostics/alarms.jsonl`; every reading's features and probability to
    `harm.jsonl`. When the run ends, `judged.jsonl` has a verdict on every property and on harm: silence is no all-clear.
    What has been heard and said is in the checkpoint. List it after the callbacks it is to hear: of those below it hears one step
    late.

    Args:
        stop: end the run at the first warning (with rules of your own: at the first of them), with a checkpoint where there is a
            RunCheckpoint.
        rules: instead of the default notices and the warning (`callbacks.alarms.notices`).
    """

    def __init__(self, stop: bool = False, rules: Sequence[AlarmRule] | None = None) -> None:
        self.stop = stop
        self._rules = rules
        self._watch = self._watch_of(NOTICES)
        self._harm = HarmWatch() if rules is None else None
        self._setting: Setting | None = None
        self._first_entropy: float | None = None
        self._heard: dict[str, Tensor] = {}
        self._console = Console()
        self.is_silent = False
        """Whether nothing is printed: somebody else tells what fired."""

    def _watch_of(self, default: Sequence[AlarmRule]) -> AlarmWatch:
        return AlarmWatch(default if self._rules is None else self._rules, extra=frozenset(map(_class_change, _CLASSES)))

    def watch_checkpoints(self) -> None:
        """Judge whole checkpoints from now on: the default notices then take one reading for what a step's noise needs several."""
        self._watch = self._watch_of(over_checkpoints(PROPERTY_NOTICES))

    @override
    def hear(self, readings: Mapping[str, float]) -> None:
        """Take readings of the current step; diagnostics call it on every rank, with the same numbers."""
        self._watch.hear(readings)
        if self._harm is not None:
            self._harm.hear(readings)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not step_of(trainer, batch_idx)[1]:
            return
        if trainer.global_step % int(trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            logged = self._new(trainer.callback_metrics)
            self.hear({name: float(logged[name]) for name in self._watch.names & logged.keys()} | self._kl_ratio(logged))
        self.judge(trainer, pl_module)

    def _new(self, logged: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was logged since the last look: of metrics that a module logs once a rollout the old ones stay where they are."""
        new = {name: value for name, value in logged.items() if self._heard.get(name) is not value}
        self._heard |= new
        return new

    def _kl_ratio(self, logged: Mapping[str, Any]) -> dict[str, float]:
        """Sampled KL over the surprise of what was written at first, where both are logged."""
        if not {_KL, _ENTROPY} <= logged.keys():
            return {}
        if self._first_entropy is None:
            self._first_entropy = float(logged[_ENTROPY])
        return {KL_RATIO: float(logged[_KL]) / max(self._first_entropy, 1e-6)}

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Monitors of the probe bank read it once more when training ends.
        self.judge(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.conclude(trainer)

    def conclude(self, trainer: Trainer) -> None:
        """Write what became of each property and of harm, and say what could not be judged."""
        verdicts = self._watch.verdicts(trainer.callback_metrics) | ({} if self._harm is None else {HARM: self._harm.verdict()})
        append_row(trainer, JUDGED_ROWS, {"step": trainer.global_step, "verdicts": verdicts})
        if trainer.is_global_zero and not self.is_silent:
            for name, verdict in verdicts.items():
                if "not judged" in verdict:
                    self._console.print(f"{name.replace('_', ' ').capitalize()}: {verdict}.", soft_wrap=True, highlight=False)

    def judge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge what has been heard since the last time, and say what is new."""
        judgement = self._judge_harm(trainer, pl_module)
        notices = self._watch.judge(trainer.global_step, _where)
        for alarm in notices:
            self._announce(trainer, alarm)
        has_own = self._rules is not None and bool(notices)
        if self.stop and (has_own or (judgement is not None and judgement.is_warning)):
            # On every rank at the same step: all have heard the same.
            trainer.should_stop = True

    def _judge_harm(self, trainer: Trainer, pl_module: LightningModule) -> Judgement | None:
        if self._harm is None:
            return None
        self._watch.hear({f"{PREFIX}/{name}": value for name, value in self._harm.new_features().items()})
        if self._setting is None:
            self._setting = _setting_of(pl_module)
        judgement = self._harm.judge(trainer.global_step, self._setting)
        if judgement is not None:
            self._write(trainer, judgement)
        return judgement

    def _write(self, trainer: Trainer, judgement: Judgement) -> None:
        values = {f"{PREFIX}/probability": judgement.probability, f"{PREFIX}/score": judgement.score}
        values |= {f"{PREFIX}/{name}": value for name, value in judgement.values.items()}
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
        append_row(trainer, HARM_ROWS, {"step": judgement.step, **values})
        if judgement.is_warning:
            assert self._harm is not None
            row = {
                "step": judgement.step,
                "property": judgement.property,
                "level": "warning",
                "probability": judgement.probability,
                "message": message(judgement, self._harm.calibration),
                "numbers": judgement.values,
                "contributions": judgement.contributions,
                "outside": list(judgement.outside),
                "since": judgement.step,
            }
            self._say(trainer, row)

    def _announce(self, trainer: Trainer, alarm: Alarm) -> None:
        row = {"step": alarm.step, "property": alarm.property, "level": alarm.level, "probability": None, "message": alarm.message}
        self._say(trainer, {**row, "numbers": alarm.numbers, "since": alarm.since})

    def _say(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        name, level = str(row["property"]).replace("_", " "), str(row["level"])
        if not self.is_silent:
            title = f"{level}: {name}, step {row['step']}"
            panel = Panel(str(row["message"]), title=title, title_align="left", border_style="red")
            say(self._console, panel if level == "warning" else f"{title}. {row['message']}")
        show_text(trainer, f"{level}s/{row['property']}", str(row["message"]), int(row["step"]))
        append_row(trainer, ROWS, row)

    @override
    def state_dict(self) -> dict[str, Any]:
        harm = None if self._harm is None else self._harm.state_dict()
        return {**self._watch.state_dict(), "harm": harm, "first_entropy": self._first_entropy}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._watch.load_state_dict(state_dict)
        # Checkpoints of earlier versions have neither.
        if self._harm is not None and state_dict.get("harm") is not None:
            self._harm.load_state_dict(state_dict["harm"])
        self._first_entropy = state_dict.get("first_entropy")


def _setting_of(pl_module: LightningModule) -> Setting:
    policy = require(pl_module, HasPolicy).policy
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    vocabulary = getattr(policy, "vocab_size", None)
    return Setting(parameters, vocabulary, type(getattr(pl_module, "loss", pl_module)).__name__)


def _class_change(name: str) -> str:
    return f"degradation/bank/chosen/{name}/change_per_token"


def _where(latest: Mapping[str, float]) -> dict[str, str]:
    """The class of the chosen side's tokens that fell most, for notices that name it."""
    fell = {name: latest[_class_change(name)] for name in _CLASSES if _class_change(name) in latest}
    return {"where": min(fell, key=lambda name: fell[name])} if fell and min(fell.values()) < 0 else {}
