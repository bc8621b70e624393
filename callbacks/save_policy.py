"""The trained policy as a folder, where the next stage finds it."""

from __future__ import annotations

from typing import Protocol, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from callbacks.run_files import run_folder
from lightning_modules.models.policy import Policy

FOLDER = "policy"
"""Within the run's folder."""


class _PolicyHolder(Protocol):
    policy: Policy


class SavePolicy(Callback):
    """Writes the policy to `<run>/policy` when training ends: weights only, for the spec of another run to load.

    A checkpoint is for going on with the same run; this is for handing over to the next stage (SFT to preferences).
    """

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder(trainer)
        if trainer.is_global_zero and folder is not None:
            cast(_PolicyHolder, pl_module).policy.save(folder / FOLDER)
