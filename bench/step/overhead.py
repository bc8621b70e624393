"""Measures Lightning's overhead: a whole step of our Trainer against the same step in a bare loop: `python -m bench.step.overhead`.

One process holds two copies of the model. After each step of the Trainer, the copy takes a step on the same batch in the barest
loop there is: forward, loss, backward, optimizer. What the Trainer's step has beyond that is the overhead: fetching and packing
the batch, hooks, gradient norm, running means, the point in TensorBoard every `log_every_n_steps`. Both losses must agree.
Times are CPU times of this process (one thread), which others on the machine hardly disturb; the wait for the loader is wall time.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import SimpleProfiler
from torch.optim import AdamW

from bench.markdown import publish_page
from bench.measure import machine
from bench.step.our_side import build_data, build_module
from bench.step.side import Side
from bench.step.workload import SHAPES, build_workload
from datamodules.contracts.batches import CompletionBatch
from lightning_modules.preference import PreferenceModule

LOG_EVERY = 5
"""As in configs/trainer/default.yaml."""


_ABOUT = (__doc__ or "").partition("\n\n")[2]


class _BareTwin(Callback):
    """Times the Trainer's steps, and takes each again without it."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.largest_loss_difference = 0.0
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, PreferenceModule)
        self.policy = pl_module.policy_spec.build()
        self.optimizer = AdamW(self.policy.parameters(), lr=self.learning_rate, weight_decay=0.0, fused=True)
        self._since = time.process_time()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: PreferenceModule, outputs: Mapping[str, Any], batch: CompletionBatch, batch_idx: int
    ) -> None:
        self.trainer_seconds.append(time.process_time() - self._since)
        begin = time.process_time()
        output = pl_module.objective(batch, self.policy(batch))
        loss = output.loss_sum * output.gradient_scale
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.bare_seconds.append(time.process_time() - begin)
        difference = abs(float(loss.detach()) - float(outputs["loss"]))
        self.largest_loss_difference = max(self.largest_loss_difference, difference)
        self._since = time.process_time()


def measure(side: Side) -> dict[str, float]:
    """Medians over the steps but the first two, in seconds; shares of the bare step."""
    twin, profiler = _BareTwin(side.learning_rate), SimpleProfiler()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=side.steps,
            log_every_n_steps=LOG_EVERY,
            logger=TensorBoardLogger(folder, name="bench"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            profiler=profiler,
            callbacks=[twin],
        )
        trainer.fit(build_module(side, folder), datamodule=build_data(side, folder))
    if twin.largest_loss_difference > 1e-4:
        raise RuntimeError(f"expected the same losses with and without the Trainer, they differ by {twin.largest_loss_difference}.")
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"][2:]
    pairs = list(zip(twin.trainer_seconds[2:], twin.bare_seconds[2:], strict=True))
    bare = median(twin.bare_seconds[2:])
    return {
        "trainer_seconds": median(twin.trainer_seconds[2:]),
        "bare_seconds": bare,
        "overhead_seconds": median(ours - theirs for ours, theirs in pairs),
        "overhead_share": median((ours - theirs) / theirs for ours, theirs in pairs),
        "loader_wait_seconds": median(waits),
        "loader_wait_share": median(waits) / bare,
    }


def main() -> None:
    """Measure every shape, print a table, write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["dry-run", "smollm2-6-layers"])
    parser.add_argument("--mix", choices=["long_response", "long_prompt"], default="long_response")
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[102, 12], help="for each shape; the first two are not counted")
    parser.add_argument("--work", type=Path, default=Path(".cache/prefscope/bench"), help="folder for weights and pairs")
    parser.add_argument("--out", type=Path, help="JSON file; a Markdown page is written beside it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = {}
    for shape, steps in zip(options.shapes, options.steps, strict=True):
        # Passing over the pairs more than once costs nothing that is measured.
        pairs = min(steps, 50) * options.pairs_per_step
        workload = build_workload(options.work / f"{shape}-{options.mix}-{pairs}", shape, options.mix, pairs)
        rows[shape] = measure(Side(workload, steps, options.pairs_per_step, 1, 1e-5, False, False, False, 1, True))
    report = {"options": {name: str(value) for name, value in vars(options).items()}, "machine": machine("cpu")}
    publish_page("What the Trainer costs", _ABOUT, report, rows, options.out)


if __name__ == "__main__":
    main()
