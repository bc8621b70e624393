"""The share of a PPO step that is sampling, on the embedded model.

`python -m bench.rollout_share --steps 24` (CPU seconds of one thread, so that other work on the machine does not count).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from command_line.experiment import run_experiment
from lightning_modules.models.causal_lm import CausalLMPolicy


class Clock(Callback):
    """Prints the share of sampling in the training's CPU time."""

    sampled = 0.0
    """Seconds."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, Clock.sampled = time.process_time(), 0.0

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = time.process_time() - self._began
        print(f"{Clock.sampled / seconds:.0%} of {seconds:.1f} CPU seconds of {trainer.global_step} steps is sampling.", flush=True)


def run(steps: int, options: Sequence[str]) -> None:
    """Train, with a clock on every draw."""
    generate = CausalLMPolicy.generate

    def timed(policy: CausalLMPolicy, *arguments: Any, **further: Any) -> Any:  # noqa: ANN401
        began = time.process_time()
        try:
            return generate(policy, *arguments, **further)
        finally:
            Clock.sampled += time.process_time() - began

    with TemporaryDirectory() as folder, patch.object(CausalLMPolicy, "generate", timed):
        run_experiment(
            [
                *("fit", "--config", "arithmetic_ppo", "--trainer.callbacks", "[{class_path: bench.rollout_share.Clock}]"),
                *(f"--trainer.max_steps={steps}", f"--trainer.logger.save_dir={folder}", *options),
            ]
        )


if __name__ == "__main__":
    from bench.rollout_share import run as imported

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    asked, others = parser.parse_known_args()
    imported(asked.steps, others)
