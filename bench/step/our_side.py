"""Runs our trainer on the shared workload in its own process and prints one JSON line (`python -m bench.step.our_side --help`)."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import AdamW

from bench.step.side import Side, add_side_arguments, now, side_from
from bench.step.unshared import UnsharedPairs
from datamodules.formats.columns import PairColumns
from datamodules.preference import PreferenceDataModule
from datamodules.sources.readers import DataSource
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.specs import PretrainedPolicy
from lightning_modules.preference import PreferenceModule


class _Clock(Callback):
    """The time at the start of training and at the end of every optimizer step, and each step's loss."""

    def __init__(self, side: Side) -> None:
        self.side, self.floor = side, 0
        self.marks: list[float] = []
        self.losses: list[float] = []

    def on_train_start(self, *_: object) -> None:
        self.floor = self.side.memory_floor()
        self.marks.append(now())

    def on_train_batch_end(self, trainer: Trainer, pl_module: object, outputs: Any, *_: object) -> None:  # noqa: ANN401
        self.losses.append(outputs["loss"].item())
        self.marks.append(now())


def run(side: Side) -> dict[str, Any]:
    """Train `side.steps` steps; per-step seconds, losses and peak memory above the loaded weights (bytes)."""
    torch.set_num_threads(side.threads)
    clock = _Clock(side)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            precision="bf16-mixed" if side.bf16 else "32-true",
            max_steps=side.steps,
            # The same reporting as the peer's: every step, straight to disk.
            log_every_n_steps=1,
            logger=TensorBoardLogger(folder, name="bench"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*_diagnostics(side), clock],
        )
        trainer.fit(build_module(side, folder), datamodule=build_data(side, folder))
    return side.report(clock.marks, clock.losses, clock.floor)


def _diagnostics(side: Side) -> list[Callback]:
    if not side.diagnostics:
        return []
    from callbacks.diagnostics.dispersion import DispersionMonitor
    from callbacks.diagnostics.likelihood import LikelihoodMonitor
    from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor

    cadence = side.diagnostics_every
    return [LikelihoodMonitor(cadence), SoftmaxGradientMonitor(cadence), DispersionMonitor(cadence)]


def build_module(side: Side, folder: str) -> PreferenceModule:
    """DPO on the workload's model; the reference's log-probs are kept in `folder`."""
    return PreferenceModule(
        PretrainedPolicy(str(side.workload / "model"), gradient_checkpointing=side.gradient_checkpointing),
        DPOLoss(beta=0.1),
        partial(AdamW, lr=side.learning_rate, weight_decay=0.0, fused=True),
        cache_dir=folder,
    )


def build_data(side: Side, folder: str, num_probe_prompts: int = 0) -> PreferenceDataModule:
    """The workload's pairs, a fixed number a step."""
    kind = PreferenceDataModule if side.share_prompts else UnsharedPairs
    return kind(
        tokenizer=str(side.workload / "model"),
        train=DataSource(str(side.workload / "pairs.jsonl")),
        format=PairColumns(),
        val_fraction=0.0,
        max_length=1024,
        batch_size=side.pairs_per_step,
        max_tokens_per_batch=1 << 16,
        cache_dir=folder,
        num_probe_prompts=num_probe_prompts,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_side_arguments(parser)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(json.dumps(run(side_from(parser.parse_args()))))
