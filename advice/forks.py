"""Forks: short continuations of a run in folders of their own, taken up where an earlier call has left them."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Checkpoint, DeviceStatsMonitor, LearningRateMonitor, ModelSummary, ProgressBar

from advice.measures import Values
from advice.origin import Origin
from advice.settings import Config, callbacks_of, class_of, value_at, with_values
from callbacks.base import Diagnostic
from callbacks.control.band_follower import BandFollower
from datamodules.tasks.base import Task

Fit = Callable[[Path, Config], None]
"""Trains with a config file; the config beside it says on what."""

REPLAY = "replay"
_NEVER = 10**9
_WATCHERS = (Diagnostic, Checkpoint, ProgressBar, ModelSummary, LearningRateMonitor, DeviceStatsMonitor)
_WATCHING = tuple(f"callbacks.{room}." for room in ("alarms", "answers", "diagnostics", "output", "saving"))


@dataclass(frozen=True)
class Reading:
    """What a fork's policy was like after a step."""

    step: int
    measures: Values
    seconds: dict[str, float]
    """Since the reading before: `steps` and `reading`."""


@dataclass
class Forks:
    """All forks of a run, in one folder.

    Args:
        origin: where they begin.
        folder: where they go.
        fit: trains.
        options: further arguments of ForkReading.
    """

    origin: Origin
    folder: Path
    fit: Fit
    options: Config = field(default_factory=dict)

    def start(self) -> Path | None:
        """The checkpoint at the fork's step, made by taking the run's own steps again if none was kept; None for the beginning."""
        origin, link = self.origin, self.folder / f"from_step_{self.origin.step}.ckpt"
        if origin.checkpoint is not None and origin.checkpoint_step == origin.step:
            return _linked(origin.checkpoint, link)
        if origin.step == 0 or origin.step == origin.checkpoint_step:
            return origin.checkpoint
        if self._begin_anew(REPLAY, origin.config):
            link.unlink(missing_ok=True)
        if not link.exists():
            self.go(REPLAY, origin.config, origin.step, [], begin=origin.checkpoint)
            _linked(self._checkpoint(REPLAY), link)
        return link

    def reading(self, name: str, step: int) -> Reading | None:
        """What was read of a fork at a step; None where it has not come there."""
        path = self.folder / name / f"step_{step}.json"
        return Reading(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def come_to(self, name: str) -> int:
        """The last step that a fork took, for a progress bar."""
        path = self.folder / name / "progress"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return int(text) if text.isdigit() else 0

    def go(self, name: str, config: Config, until: int, at: Sequence[int], begin: Path | None) -> None:
        """Take a fork to a step, from where it was saved last or else from the beginning.

        What an earlier call left is used if it asked the same: the same config, read in the same way. Else it goes.

        Args:
            name: of the fork.
            config: of the run, with what is tried.
            until: optimizer step.
            at: steps to read at.
            begin: checkpoint; None where the run began.
        """
        self._begin_anew(name, config)
        folder, saved = self.folder / name, self._state(name)
        if saved.get("step", -1) >= until and all(self.reading(name, step) for step in at):
            return
        spent = saved.get("seconds", 0.0)
        if saved and (saved["step"] >= until or not Path(saved["checkpoint"]).exists()):
            # Its weights were removed when an earlier call had answered.
            saved = {}
        asked = self._config(name, config, until, at, Path(saved["checkpoint"]) if saved else begin)
        path = folder / f"to_step_{until}.yaml"
        path.write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")
        began = time.perf_counter()
        with warnings.catch_warnings():
            # Lightning misses the callbacks that watch, which are left out on purpose.
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")
            self.fit(path, asked)
        written = max((folder / "runs").glob("version_*/checkpoints/*.ckpt"), key=lambda file: file.lstat().st_mtime).resolve()
        state = {"step": until, "checkpoint": str(written), "seconds": spent + time.perf_counter() - began}
        _write(folder / "state.json", state)
        if saved:
            _remove(Path(saved["checkpoint"]))

    def seconds(self, name: str) -> float:
        """Time that the fork has taken, in all calls."""
        return float(self._state(name).get("seconds", 0.0))

    def forget(self, name: str) -> None:
        """Remove a fork's weights; its readings stay."""
        saved = self._state(name)
        if saved:
            _remove(Path(saved["checkpoint"]))

    def _begin_anew(self, name: str, config: Config) -> bool:
        """Make a fork's folder, and empty it of what was another question: whether that was so, or there was none."""
        folder = self.folder / name
        path, asked = folder / "asked.json", json.dumps({"config": config, "options": self.options}, sort_keys=True, default=str)
        if path.is_file() and path.read_text(encoding="utf-8") == asked:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path.write_text(asked, encoding="utf-8")
        return True

    def _checkpoint(self, name: str) -> Path:
        return Path(self._state(name)["checkpoint"])

    def _state(self, name: str) -> dict[str, Any]:
        path = self.folder / name / "state.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def _config(self, name: str, config: Config, until: int, at: Sequence[int], begin: Path | None) -> Config:
        """The config of a fork: what acts on the run stays, what watches it goes."""
        reading = {"folder": str(self.folder / name), "at": list(at), **self.options}
        logger = {"save_dir": str(self.folder / name), "name": "runs"}
        return with_values(
            config,
            {
                "trainer.callbacks": [
                    *(one for one in callbacks_of(config) if not watches(one)),
                    {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": _NEVER}},
                    {"class_path": "advice.fork_reading.ForkReading", "init_args": reading},
                ],
                "trainer.logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": logger},
                "trainer.max_steps": until,
                "trainer.max_epochs": -1,
                "trainer.max_time": None,
                "trainer.limit_val_batches": 0,
                # A run that keeps none itself is forked all the same.
                "trainer.enable_checkpointing": True,
                "trainer.fast_dev_run": False,
                "trainer.enable_progress_bar": False,
                "trainer.enable_model_summary": False,
                "ckpt_path": None if begin is None else str(begin),
            },
        )


def watches(callback: Config) -> bool:
    """Whether a callback only looks on: measures, prints, or writes."""
    kind = class_of(callback)
    # What steers a field of the loss is a diagnostic too, for it measures what it follows.
    acts = kind is not None and issubclass(kind, BandFollower)
    return kind is None or (not acts and (issubclass(kind, _WATCHERS) or kind.__module__.startswith(_WATCHING)))


def reading_options(config: Config, neutral_text: Path | None) -> Config:
    """What a run's own callbacks say about how its answers are judged, as arguments of ForkReading."""
    options: Config = {"neutral_text": None if neutral_text is None else str(neutral_text)}
    monitors = [one.get("init_args") or {} for one in callbacks_of(config) if "judge" in (one.get("init_args") or {})]
    decoding = value_at(config, "data.test_decoding.max_new_tokens")
    options["max_new_tokens"] = decoding if isinstance(decoding, int) else 256
    for arguments in monitors[:1]:
        options |= {name: arguments[name] for name in ("judge", "max_new_tokens", "num_problems") if name in arguments}
    return options


def has_judge(config: Config, options: Config) -> bool:
    """Whether answers to the run's held-out problems are judged: by a judge of a callback, or of its task."""
    task = value_at(config, "data.task")
    own = getattr(class_of(task), "own_judge", Task.own_judge)
    return isinstance(task, dict) and bool(
        options.get("judge") or (task.get("init_args") or {}).get("judge") or own is not Task.own_judge
    )


def _linked(path: Path, link: Path) -> Path:
    """The same file in the advice's own folder, where no run removes it; a sharded one stays where it is."""
    if path.is_dir():
        return path
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, link)
        except OSError:
            shutil.copyfile(path, link.with_suffix(".part"))
            link.with_suffix(".part").replace(link)
    return link


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.with_suffix(".part").write_text(json.dumps(content), encoding="utf-8")
    path.with_suffix(".part").replace(path)
