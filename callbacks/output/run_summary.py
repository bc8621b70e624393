"""Prints a table when a run has ended: its completions before and after, and where to look next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from callbacks.base import ReadingListener
from callbacks.output.console import say
from callbacks.output.run_report import REPORT
from run_folder.files import run_folder
from run_folder.program import spelled
from run_folder.properties import FELL
from run_folder.rows import ROWS, Track, read_rows, tracks_of, write_starts
from run_folder.verdict import VALIDATION, alarm_sentence, method_of, verdict_of

_BANK = "likelihood/bank"


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    start: float | None
    end: float
    change: float | None = None
    per_token: float | None = None
    digits: int = 2


def summary_lines(tracks: Mapping[str, Track], first_step: int | None = None) -> list[Line]:
    """The lines of the table, for what the run measured.

    Log-likelihoods of the probe bank start at step 0: their change counts from there. The rest starts at the first reading.

    Args:
        tracks: what was measured.
        first_step: a first reading that is later than this is no start (of checkpoints, whose start is the reference: 0).
    """
    kinds = dict.fromkeys(name.split("/")[2] for name in tracks if name.startswith(f"{_BANK}/") and name.endswith("/logp"))
    lines = [_likelihood_line(tracks, kind) for kind in kinds]
    if {"chosen", "rejected"} <= set(kinds):
        growth = _last(tracks, f"{_BANK}/chosen/change") - _last(tracks, f"{_BANK}/rejected/change")
        lines.append(Line("growth of log pi+ - log pi-", None, growth))
    named = {
        f"{_BANK}/drop_share": "drop share (> 1: chosen fell too)",
        # One line, as the report's card has one number: the bank's where it is read.
        next((name for name in FELL if name in tracks), FELL[0]): "pairs whose chosen fell",
        "dispersion/bank/probes/index_per_token": "dispersion index, per token",
        "dispersion/bank/off_data_mass": "mass off everything known, a token",
        "dispersion/bank/off_pair_mass": "mass off the pair at its branch",
        "dispersion/bank/chosen/entropy": "entropy along chosen",
        **{name: name for name in tracks if name.rsplit("/", 1)[-1] == "accuracy"},
    }
    return lines + [_plain_line(title, tracks[name], first_step) for name, title in named.items() if name in tracks]


def summary_table(lines: list[Line], step: int) -> Table:
    """The lines as a table."""
    table = Table(title=f"What the run did, step {step}", title_justify="left", caption_justify="left")
    table.caption = "Nats, mean over the frozen probe bank; shares, probabilities and accuracies in [0, 1]."
    for header in ("", "start", "end", "change", "per token"):
        table.add_column(header, justify="left" if not header else "right")
    for line in lines:
        table.add_row(
            line.name,
            _number(line.start, line.digits),
            _number(line.end, line.digits),
            _number(line.change, line.digits, sign="+"),
            _number(line.per_token, 3, sign="+"),
        )
    return table


class RunSummary(ReadingListener):
    """Says what became of a run, and what happened to likelihoods, margin, mass and accuracy, when a fit has ended.

    Reads the rows the other callbacks wrote, so that it shows what is switched on; any metric named `.../accuracy` among them has
    a line.
    """

    def __init__(self) -> None:
        self._console = Console()
        self._validation: dict[str, Track] = {}
        self._starts: dict[str, tuple[int, float]] = {}
        self._trainer: Trainer | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    @override
    def hear(self, readings: Mapping[str, float]) -> None:
        """Keep the first reading of every metric: a resumed run has it in no row of its own folder."""
        step = 0 if self._trainer is None else self._trainer.global_step
        for name, value in readings.items():
            self._starts.setdefault(name, (step, value))

    @override
    def state_dict(self) -> dict[str, Any]:
        # The first validation alone: one at the step of a checkpoint comes after it and would be missing in a resumed run.
        return {"starts": dict(self._starts), "validation": {name: track[:1] for name, track in self._validation.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._starts, self._validation = state_dict["starts"], state_dict["validation"]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        kept = self._starts | {name: track[0] for name, track in self._validation.items()}
        earlier = {name: (step, value) for name, (step, value) in kept.items() if step < trainer.global_step}
        if earlier and trainer.is_global_zero and folder is not None:
            write_starts(folder, earlier)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # These stand in no rows.
        if not trainer.sanity_checking:
            for name in VALIDATION & trainer.callback_metrics.keys():
                self._validation.setdefault(name, []).append((trainer.global_step, float(trainer.callback_metrics[name])))

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero or folder is None:
            return
        tracks = tracks_of(folder) | self._validation
        lines = summary_lines(tracks)
        if lines:
            say(self._console, *opening(folder, tracks), summary_table(lines, trainer.global_step))
        say(self._console, *next_steps(folder, _last_checkpoint(trainer), further_options(trainer)))


def opening(folder: Path, tracks: Mapping[str, Track]) -> list[str]:
    """The sentences that stand first: what became of the run, and what its alarms said."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    verdict = verdict_of(tracks, method_of(config))
    judged = read_rows(folder, "judged")
    verdicts = judged[-1].get("verdicts", {}) if judged else {}
    return [verdict.sentences(), alarm_sentence(read_rows(folder, "alarms"), verdicts, verdict)]


def next_steps(folder: Path, checkpoint: str, further: Sequence[str] = ()) -> list[str]:
    """Where to look and how to go on, as commands to copy.

    Args:
        folder: of the run.
        checkpoint: the newest one; empty for none.
        further: options without which a resumed run would have nothing left to do (`further_options`).
    """
    page, config = folder / REPORT, folder / "config.yaml"
    steps = [f"Report:  {page}"] if page.is_file() else []
    steps += [f"Curves:  {shlex.join(['tensorboard', '--logdir', str(folder.parent)])}", f"Rows:    {folder / ROWS}"]
    if checkpoint and config.is_file():
        words = ["--config", str(config), "--ckpt_path", checkpoint, *further]
        steps.append(f"Resume:  {spelled('python train.py fit')} {shlex.join(words)}")
    return steps


def further_options(trainer: Trainer) -> tuple[str, ...]:
    """Options that take a run twice as far, where it has come to its own end; none where it was stopped before."""
    steps, epochs = trainer.max_steps, trainer.max_epochs
    has_end_of_epochs = epochs is not None and epochs >= 0
    if 0 <= steps <= trainer.global_step:
        # The passes over the data may end it too.
        return ("--trainer.max_steps", str(2 * steps), *(("--trainer.max_epochs", "-1") if has_end_of_epochs else ()))
    if epochs is not None and 0 <= epochs <= trainer.current_epoch:
        return ("--trainer.max_epochs", str(2 * epochs))
    return ()


def _likelihood_line(tracks: Mapping[str, Track], kind: str) -> Line:
    end, change = _last(tracks, f"{_BANK}/{kind}/logp"), _last(tracks, f"{_BANK}/{kind}/change")
    return Line(f"log-likelihood, {kind}", end - change, end, change, _last(tracks, f"{_BANK}/{kind}/change_per_token"))


def _plain_line(title: str, track: Track, first_step: int | None) -> Line:
    start, end = track[0][1], track[-1][1]
    if first_step is not None and track[0][0] > first_step:
        return Line(title, None, end, digits=3)
    return Line(title, start, end, end - start, digits=3)


def _last(tracks: Mapping[str, Track], name: str) -> float:
    return tracks[name][-1][1]


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.{digits}f}"


def _last_checkpoint(trainer: Trainer) -> str:
    """Path of the newest checkpoint; empty where none was written."""
    paths = (getattr(callback, "last_model_path", "") or callback.best_model_path for callback in trainer.checkpoint_callbacks)  # type: ignore[attr-defined]
    return next(filter(None, paths), "")
