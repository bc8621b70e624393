"""The host waits for the device once per logged point: reading any number off a tensor is counted, wherever it happens."""

from __future__ import annotations

import traceback
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import AdamW

from lightning_modules.base import BaseModule
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

READS = ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "nonzero")
"""Ways in which a number comes off a device."""
STEPS = 12


class Reads:
    """Where numbers were read while `counting`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counting = False
        self.places: list[str] = []
        for name in READS:
            monkeypatch.setattr(torch.Tensor, name, self._counted(name))

    def _counted(self, name: str) -> Any:
        original = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.counting:
                self.counting = False
                self.places.append(f"{name}: " + " < ".join(f.name for f in reversed(traceback.extract_stack()[-7:-1])))
                self.counting = True
            return original(tensor, *args, **kwargs)

        return read


class CountWhileTraining(Callback):
    """Counts between the first and the last step."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reads.counting = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reads.counting = False


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def modules(tmp_path: Path) -> dict[str, BaseModule]:
    optimizer = partial(AdamW, lr=1e-3, fused=True)
    return {
        "sft": SFTModule(TINY, optimizer),
        "dpo": PreferenceModule(TINY, DPOLoss(beta=0.5), optimizer, cache_dir=str(tmp_path)),
    }


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize("every", [3, 6])
def test_one_read_for_each_logged_point(tmp_path: Path, reads: Reads, kind: str, every: int) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        log_every_n_steps=every,
        gradient_clip_val=1.0,
        logger=TensorBoardLogger(tmp_path),
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[CountWhileTraining(reads), TQDMProgressBar()],
    )
    trainer.fit(modules(tmp_path)[kind], datamodule=InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]] * STEPS, 1))
    assert trainer.global_step == STEPS
    assert len(reads.places) == STEPS // every, reads.places
    # What callbacks and the bar read is on the host.
    assert trainer.progress_bar_metrics["loss"] == pytest.approx(trainer.callback_metrics["train/loss"].item())
