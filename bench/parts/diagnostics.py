"""Measures the cost of each diagnostic: `python -m bench.parts.diagnostics`.

Runs our trainer with the callbacks of `configs/trainer/default.yaml`, at short cadences so that each event comes several times, and
reads from Lightning's profiler how long every callback took at each step; what a callback does inside the training step (the
output layer's geometry) is timed where it is done. An event's cost over the cadence it is shipped with is its cost per step; their
sum over the time of a step without callbacks is what the default costs. The probe bank has as many prompts to a step's pairs as in
`configs/data/hh_harmless.yaml`: one to two.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest.mock import patch

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import SimpleProfiler

from bench.markdown import publish_page
from bench.measure import machine
from bench.step.our_side import build_data, build_module
from bench.step.side import Side
from bench.step.workload import SHAPES, build_workload
from callbacks.mathematics.head_geometry import HeadReader

DEFAULT = Path(__file__).parents[2] / "configs" / "trainer" / "default.yaml"
SHORT = {"every_n_steps": 1, "probe_every_n_steps": 3, "histogram_every_n_steps": 3}
"""Cadences of the measurement; what is due at every step is told from what comes with it every third."""


@dataclass(frozen=True)
class Watcher:
    """A callback of the shipped configuration that measures at a cadence."""

    class_path: str
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The class's name, by which the profiler knows it."""
        return self.class_path.rsplit(".", 1)[1]

    def build(self) -> Callback:
        """The callback at the cadences of the measurement."""
        short = {name: value for name, value in SHORT.items() if name in self.arguments}
        parser = ArgumentParser()
        parser.add_argument("--callback", type=Callback)
        config = {"class_path": self.class_path, "init_args": {**self.arguments, **short}}
        built: Callback = parser.instantiate_classes(parser.parse_object({"callback": config})).callback
        return built

    def cost(self, seconds: list[float]) -> float:
        """Seconds per step at the shipped cadences, from those it took at every step of the measurement."""
        # The first step warms up, and is measured whatever the cadence.
        steps = list(enumerate(seconds, start=1))[1:]
        plain = fmean(spent for step, spent in steps if step % 3)
        further = fmean(spent for step, spent in steps if step % 3 == 0) - plain
        rarer = [self.arguments[name] for name in SHORT if name in self.arguments and name != "every_n_steps"]
        # A cost that comes with a rarer event is divided by the most frequent of them: never too little.
        return float(plain / self.arguments["every_n_steps"] + (max(further, 0.0) / min(rarer) if rarer else 0.0))


def shipped_watchers() -> Iterator[Watcher]:
    """The callbacks of the default trainer that have a cadence and measure; saving a run is not a diagnostic."""
    for entry in yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))["callbacks"]:
        arguments = entry.get("init_args", {})
        if "every_n_steps" in arguments:
            yield Watcher(entry["class_path"], arguments)


def measure(side: Side) -> dict[str, dict[str, float]]:
    """`{callback: {seconds_per_step, share_of_step}}` and the step itself, in seconds."""
    watchers = list(shipped_watchers())
    profiler = SimpleProfiler()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=side.steps,
            log_every_n_steps=5,
            logger=TensorBoardLogger(folder, name="bench"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            profiler=profiler,
            callbacks=[watcher.build() for watcher in watchers],
        )
        within: list[float] = []
        with patch.object(HeadReader, "geometry_of", _timed(HeadReader.geometry_of, within)):
            trainer.fit(
                build_module(side, folder), datamodule=build_data(side, folder, num_probe_prompts=-(-side.pairs_per_step // 2))
            )
    steps = profiler.recorded_durations["run_training_batch"]
    step = median(whole - inner for whole, inner in list(zip(steps, within, strict=True))[1:])
    rows = {"a step without callbacks": {"seconds_per_step": step, "share_of_step": 1.0}}
    for watcher in watchers:
        seconds = _seconds(profiler, watcher.name)
        if watcher.name == "DisentanglementMonitor":
            seconds = [outer + inner for outer, inner in zip(seconds, within, strict=True)]
        cost = watcher.cost(seconds)
        rows[watcher.name] = {"seconds_per_step": cost, "share_of_step": cost / step}
    total = sum(row["seconds_per_step"] for row in rows.values()) - step
    rows["all together"] = {"seconds_per_step": total, "share_of_step": total / step}
    return rows


def _timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @wraps(function)
    def timed(*arguments: object) -> object:
        begin = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - begin)
        return result

    return timed


def _seconds(profiler: SimpleProfiler, name: str) -> list[float]:
    (action,) = (a for a in profiler.recorded_durations if f"[Callback]{name}" in a and a.endswith(".on_train_batch_end"))
    return list(profiler.recorded_durations[action])


def main() -> None:
    """Measure, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", choices=["long_response", "long_prompt"], default="long_response")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-6-layers")
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="one more than a multiple of 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".cache/prefscope/bench"), help="folder for weights and pairs")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    pairs = options.steps * options.pairs_per_step
    workload = build_workload(options.work / f"{options.shape}-{options.mix}-{pairs}", options.shape, options.mix, pairs)
    side = Side(workload, options.steps, options.pairs_per_step, options.threads, 1e-4, False, False, True, 1, True)
    rows = measure(side)
    report = {"options": {name: str(value) for name, value in vars(options).items()}, "machine": machine("cpu")}
    publish_page("What watching costs, part by part", (__doc__ or "").partition("\n\n")[2], report, rows, options.out)


if __name__ == "__main__":
    main()
