"""Two processes take the steps that one takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from datamodules.contracts.batches import CompletionBatch
from tests.datamodules.test_resume import PairData

pytestmark = [
    # Python 3.12 warns of every fork of a process with threads.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    # Lightning 2.6 calls torch's pytree with a name it deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


class Regression(LightningModule):
    """Its loss is a sum over prompts, scaled by the planned count; it writes down which examples it has seen."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self._folder = folder
        self._trained: list[list[int]] = []
        self._validated: list[int] = []

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> Tensor:
        self._trained.append(batch.example_index.unique().tolist())
        errors = (self.weight - batch.lengths[batch.pairs].double().mean(1)) ** 2
        return errors.sum() * batch.share.prompt_scale()

    def validation_step(self, batch: CompletionBatch, batch_idx: int) -> None:
        self._validated += batch.example_index.unique().tolist()

    def on_fit_end(self) -> None:
        record = {"trained": self._trained, "validated": self._validated, "weight": self.weight.item()}
        (self._folder / f"{self.global_rank}.json").write_text(json.dumps(record))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(folder: Path, ranks: int, accumulation: int) -> list[dict[str, Any]]:
    folder.mkdir()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_fork" if ranks > 1 else "auto",
        accumulate_grad_batches=accumulation,
        max_epochs=2,
        num_sanity_val_steps=0,
        limit_val_batches=1.0,
        check_val_every_n_epoch=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Regression(folder), PairData(7, 0))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def test_two_ranks_train_and_validate_as_one_does(tmp_path: Path) -> None:
    (one,) = train(tmp_path / "one", 1, 4)
    two = train(tmp_path / "two", 2, 2)
    for step in range(8):
        alone = [index for part in one["trained"][4 * step : 4 * step + 4] for index in part]
        together = [index for rank in two for part in rank["trained"][2 * step : 2 * step + 2] for index in part]
        assert sorted(alone) == sorted(together)
    assert one["validated"] == list(range(5))
    assert sorted(two[0]["validated"] + two[1]["validated"]) == one["validated"]
    assert two[0]["weight"] == two[1]["weight"] == pytest.approx(one["weight"], rel=1e-12)
