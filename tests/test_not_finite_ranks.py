"""NaN on one of two processes: both leave the step out and end, whether the model is replicated or sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from tests import tiny
from tests.test_resume import PATIENCE, start
from tests.test_strategies import STRATEGIES

BAD_STEP = 3


class SpoilSecondRank(Callback):
    """A statistic of the second rank is NaN; its gradients, and all numbers of the first rank, are fine."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.global_step + 1 == BAD_STEP and trainer.global_rank == 1:
            means: Any = pl_module._train_means
            means.update({"train/entropy": torch.tensor([torch.nan])})


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "foreach"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_both_ranks_leave_the_step_out(strategy: str, is_fused: bool, tmp_path: Path) -> None:
    callbacks: list[dict[str, Any]] = [
        {"class_path": "tests.test_not_finite_ranks.SpoilSecondRank"},
        {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 2}},
        {"class_path": "callbacks.saving.policy_export.PolicyExport"},
    ]
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "fused": is_fused}}
    options = {"devices": 2, "strategy": STRATEGIES[strategy], "max_steps": 5, "log_every_n_steps": 4}
    config = {
        "seed_everything": 0,
        "trainer": tiny.trainer(tmp_path, callbacks, **options),
        "model": tiny.module(tmp_path, supervised=True, optimizer=optimizer),
        "data": tiny.pair_data(tmp_path, supervised=True),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert start(tmp_path, "fit", "--config", "run.yaml").wait(PATIENCE) != 0
    said = (tmp_path / "output.txt").read_text(encoding="utf-8")
    # The four rows of both ranks.
    assert f"expected a finite train/entropy, got nan in step {BAD_STEP}, made of the rows 2, 3, 14, 17." in said
    [kept] = tmp_path.rglob("epoch=*.ckpt")
    assert kept.name.endswith(f"step={BAD_STEP - 1}.ckpt")
    assert list(tmp_path.rglob("model.safetensors")) == []
