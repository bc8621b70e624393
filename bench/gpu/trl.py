"""Compares TRL's DPOTrainer with ours on the same weights and pairs: losses in a short float32 run, then bfloat16 steps."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.gpu.rows import PartOptions, part_options
from bench.gpu.trained_steps import WARM_UP, DrawnPolicy, Setting, free_memory, quiet, train
from bench.step.trl_side import StepTimes, dpo_trainer
from bench.step.workload import build_pairs


def rival(setting: Setting, accumulation: int) -> tuple[StepTimes, list[float], int]:
    """TRL's steps: times, losses, peak bytes."""
    with tempfile.TemporaryDirectory() as folder:
        workload = build_pairs(Path(folder), setting.shape, setting.mix, setting.steps * setting.pairs_per_step)
        times = StepTimes()
        trainer = dpo_trainer(
            workload,
            DrawnPolicy(setting.shape, setting.device).draw(),
            times,
            steps=setting.steps,
            pairs_per_step=setting.pairs_per_step,
            accumulation=accumulation,
            learning_rate=setting.learning_rate,
            max_grad_norm=1.0,
            bf16=setting.precision == "bf16-mixed",
            on_cpu=setting.device == "cpu",
        )
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    del trainer
    free_memory()
    return times, losses, peak


def equality(setting: Setting) -> dict[str, Any]:
    """Losses of both sides, step by step, in float32."""
    ours = train(setting).losses
    _, theirs, _ = rival(setting, 1)
    return {"ours": ours, "trl": theirs, "largest_difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True))}


def in_turn(setting: Setting, accumulation: int, rounds: int) -> dict[str, Any]:
    """Ours and theirs, `rounds` times each; the ratio is taken round by round."""
    ratios, ours, theirs = [], [], []
    for _ in range(rounds):
        clock = train(setting)
        times, losses, peak = rival(setting, accumulation)
        ours.append(median(clock.seconds[WARM_UP:]))
        theirs.append(median(times.seconds()[WARM_UP:]))
        ratios.append(theirs[-1] / ours[-1])
    pairs = zip(clock.losses, losses, strict=True)
    return {
        "milliseconds_ours": 1000 * median(ours),
        "milliseconds_trl": 1000 * median(theirs),
        "speedup": median(ratios),
        "speedups": ratios,
        "peak_gib_ours": clock.peak_bytes / 2**30,
        "peak_gib_trl": peak / 2**30,
        "largest_loss_difference": max(abs(a - b) for a, b in pairs),
        "losses_ours": clock.losses,
        "losses_trl": losses,
    }


def main(options: PartOptions) -> None:
    """Timings are written whatever the losses are; that they are the same steps is the float32 run's business."""
    quiet()
    rounds = 1 if options.dry_run else 2
    for shape, seconds in (("qwen2.5-0.5b", 60), ("smollm2-135m", 35)):
        setting = Setting(shape, "bf16-mixed", options.device)
        exact = replace(setting, precision="32-true", steps=4, pairs_per_step=4)
        if options.dry_run:
            setting, exact = setting.small(), exact.small()
        if options.has_time_for(f"{shape}: equality in float32", 20):
            options.add(f"{shape}: equality in float32", **equality(exact))
        accumulation = 1 if options.dry_run else 4
        if options.has_time_for(f"{shape}: 4 pairs x 4", seconds):
            options.add(f"{shape}: 4 pairs x 4", **in_turn(setting, accumulation, rounds))
        if options.has_time_for(f"{shape}: 16 pairs x 1", seconds / 2):
            options.add(f"{shape}: 16 pairs x 1", **in_turn(setting, 1, 1))


if __name__ == "__main__":
    main(part_options())
