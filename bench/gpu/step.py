"""Measures one DPO step of a 0.5B model: time, memory, utilisation, attention backend, cost of diagnostics, profile."""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

from bench.gpu.rows import PartOptions, part_options
from bench.gpu.trained_steps import WARM_UP, Setting, backend_choices, figures, quiet, train
from bench.matmul_peak import best_rate
from bench.parts.diagnostics import DEFAULT

MONITORS = ("Likelihood", "SoftmaxGradient", "Degradation", "Disentanglement", "Dispersion")
"""The monitors of the shipped configuration that read training batches."""
HOST_OPERATIONS = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cudaMemcpyAsync", "cudaStreamSynchronize")
NEVER = 1 << 30


class OneStep(Callback):
    """Profiles the step after warming up."""

    def __init__(self) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self.profiler = profile(activities=activities)

    @override
    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == WARM_UP:
            self.profiler.start()

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == WARM_UP + 1:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.profiler.stop()


def monitors(every_n_steps: int) -> list[Callback]:
    """The shipped monitors of training batches at another cadence; the probe bank is read once, at step 1."""
    entries = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))["callbacks"]
    built: list[Callback] = []
    for entry in entries:
        if not any(entry["class_path"].endswith(f".{name}Monitor") for name in MONITORS):
            continue
        arguments = dict.fromkeys(entry["init_args"], NEVER) | {"every_n_steps": every_n_steps}
        parser = ArgumentParser()
        parser.add_argument("--callback", type=Callback)
        config = parser.parse_object({"callback": {"class_path": entry["class_path"], "init_args": arguments}})
        built.append(parser.instantiate_classes(config).callback)
    return built


def profiled(setting: Setting) -> dict[str, Any]:
    """Kernels of one step by device time, and how often the host launches, copies and waits."""
    one = OneStep()
    train(setting, [one])
    averages = one.profiler.key_averages()
    kernels = sorted(averages, key=lambda event: -event.self_device_time_total)[:20]
    total = sum(event.self_device_time_total for event in averages)
    counts = {event.key: event.count for event in averages if event.key.startswith(HOST_OPERATIONS)}
    return {
        "device_milliseconds": total / 1000,
        "kernels": {event.key[:100]: [round(event.self_device_time_total / 1000, 3), event.count] for event in kernels},
        "host": counts,
        "copies": {event.key: event.count for event in averages if event.key.startswith("Memcpy")},
        "reads": sum(event.count for event in averages if event.key == "aten::_local_scalar_dense"),
        "operations": sum(event.count for event in averages if event.key.startswith("aten::")),
    }


def watching(setting: Setting, peak: float | None) -> dict[str, Any]:
    """Every second step is read by all monitors: medians of the steps with and without."""
    clock = train(setting, monitors(every_n_steps=2))
    steps = list(enumerate(clock.seconds, start=1))[WARM_UP:]
    watched, plain = (median(seconds for step, seconds in steps if step % 2 == odd) for odd in (0, 1))
    return {"milliseconds_watched": 1000 * watched, "milliseconds_plain": 1000 * plain, "share_at_every_step": watched / plain - 1}


def main(options: PartOptions) -> None:
    """bf16-mixed first; the rest as far as time goes."""
    quiet()
    peak = best_rate(options.device)
    for precision in ("bf16-mixed", "bf16-true"):
        setting = Setting("qwen2.5-0.5b", precision, options.device)
        if options.dry_run:
            setting = setting.small()
        if options.has_time_for(precision, 20):
            with backend_choices() as chosen:
                options.add(precision, **figures(setting, train(setting), peak), attention=chosen)
        if precision == "bf16-mixed":
            if options.has_time_for("watching", 20):
                options.add("watching", **watching(setting, peak))
            if options.has_time_for("profile", 20):
                options.add("profile", **profiled(setting))


if __name__ == "__main__":
    main(part_options())
