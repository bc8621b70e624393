"""Measures where the time of a step goes: `python -m bench.step.profile`.

Our Trainer on the shared workload (DPO, diagnostics off), the last steps under PyTorch's profiler. A part's time is that of its
operators on the CPU with all they call: the output head by its autograd function, attention by its kernels, the optimizer by its
kernel, the layers' matrix products by theirs; what is left is norms, activation functions, rotations, copies and Python. It is wall
time: on a machine that others use, the shares tell something and the seconds little.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

from bench.markdown import publish_page
from bench.measure import machine
from bench.step.our_side import build_data, build_module
from bench.step.side import Side
from bench.step.workload import SHAPES, build_workload

WARM_UP = 2
PARTS = {
    "output head, forward": ("TiledLogProbs",),
    "output head, backward": ("TiledLogProbsBackward",),
    "attention, forward": ("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_flash_attention"),
    "attention, backward": (
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        "aten::_scaled_dot_product_flash_attention_backward",
    ),
    "optimizer": ("aten::_fused_adamw_",),
    # The head multiplies by addmm, into buffers; Llama's layers have no bias.
    "matrix products of the layers": ("aten::mm",),
}


class _LastSteps(Callback):
    """Profiles the steps after warming up."""

    def __init__(self, steps: int) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self._steps = steps

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
        if trainer.global_step == WARM_UP:
            self.profiler.start()

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self._steps:
            self.profiler.stop()


def measure(side: Side) -> dict[str, dict[str, float]]:
    """`{part: {seconds_per_step, share}}`, the whole step last."""
    last = _LastSteps(side.steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=side.steps,
            logger=TensorBoardLogger(folder, name="bench"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[last],
        )
        trainer.fit(build_module(side, folder), datamodule=build_data(side, folder))
    events = {event.key: event for event in last.profiler.key_averages()}
    whole = sum(event.self_cpu_time_total for event in events.values())
    seconds = {part: sum(events[key].cpu_time_total for key in keys if key in events) for part, keys in PARTS.items()}
    seconds["norms, activations, rotations, copies, Python"] = whole - sum(seconds.values())
    seconds["the step"] = whole
    count = (side.steps - WARM_UP) * 1e6
    return {part: {"seconds_per_step": spent / count, "share": spent / whole} for part, spent in seconds.items()}


def main() -> None:
    """Profile, print a table, write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-6-layers")
    parser.add_argument("--mix", choices=["long_response", "long_prompt"], default="long_response")
    parser.add_argument("--pairs-per-step", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="the first two are not counted")
    parser.add_argument("--work", type=Path, default=Path(".cache/prefscope/bench"), help="folder for weights and pairs")
    parser.add_argument("--out", type=Path, help="JSON file; a Markdown page is written beside it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    pairs = options.steps * options.pairs_per_step
    workload = build_workload(options.work / f"{options.shape}-{options.mix}-{pairs}", options.shape, options.mix, pairs)
    rows = measure(Side(workload, options.steps, options.pairs_per_step, 1, 1e-4, False, False, False, 1, True))
    report = {"options": {name: str(value) for name, value in vars(options).items()}, "machine": machine("cpu")}
    publish_page("Where a step's time goes", (__doc__ or "").partition("\n\n")[2], report, rows, options.out)


if __name__ == "__main__":
    main()
