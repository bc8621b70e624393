"""Death at a chosen moment, for the tests of resumption: what a process that is killed cannot prepare for."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.models.policy import SamplingProgress


def score(prompt: str, response: str, answer: str | None) -> float:
    """A reward for the tiny policy: the share of words with an even number."""
    numbers = [int(word[1:]) for word in response.split() if word.startswith("w")]
    return sum(number % 2 == 0 for number in numbers) / max(1, len(numbers))


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillInSampling(Callback):
    """Dies in the middle of the rollout after optimizer step `step`, some tokens into it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            policy: Any = pl_module.policy
            generate = policy.generate

            def fatal(progress: SamplingProgress) -> None:
                if progress.num_tokens > 8:
                    die()

            policy.generate = lambda *arguments, **options: generate(*arguments, **options | {"on_progress": fatal})


class KillInUpdate(Callback):
    """Dies when the batch of step `step` + 1 has been made and nothing has been learnt from it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            die()


class KillInSaving(Callback):
    """Dies when the checkpoint of step `step` is half written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.global_step == self.step:
            save = torch.save

            def half(state: object, file: Any, *arguments: Any, **options: Any) -> None:
                save(state, file, *arguments, **options)
                file.truncate(file.tell() // 2) if hasattr(file, "truncate") else None
                die()

            torch.save = half  # type: ignore[assignment]
