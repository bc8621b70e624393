"""A run that dies and is resumed by the trainer sees the batches of the run that lived."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from datamodules.base import BaseDataModule
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.examples import Example
from tests.datamodules.conftest import build_tokenizer
from tests.datamodules.test_loader import equal, make_dataset

# Python 3.12 warns of every fork of a process with threads, which torch's own data workers are.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

# 30 prompts in steps of 7: 4 steps an epoch.
STEPS_PER_EPOCH = 4


class PairData(BaseDataModule):
    def __init__(self, batch_size: int | None, num_workers: int) -> None:
        super().__init__(batch_size, max_tokens_per_batch=100, num_workers=num_workers)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return build_tokenizer()

    def examples(self, split: str) -> Sequence[Example] | None:
        examples = make_dataset().examples
        return {"train": examples, "val": examples[:5]}.get(split)


class Killed(Exception):
    pass


class Recorder(LightningModule):
    """Keeps every training batch; a parameter that remembers all it has seen; dies before the batch numbered `dies_at`."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.batches: list[tuple[int, CompletionBatch]] = []
        self.num_validated = 0
        self._dies_at = dies_at

    def training_step(self, batch: CompletionBatch, batch_idx: int) -> Tensor:
        if self.trainer.fit_loop.total_batch_idx == self._dies_at:
            raise Killed
        self.batches.append((self.trainer.current_epoch, batch))
        return (self.weight - batch.input_ids.double().mean()) ** 2 * batch.share.prompt_scale()

    def validation_step(self, batch: CompletionBatch, batch_idx: int) -> None:
        self.num_validated += batch.num_prompts

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class Saver(Callback):
    """Saves a checkpoint every n steps, or at the end of every epoch."""

    def __init__(self, folder: Path, every_n_steps: int | None) -> None:
        self._folder = folder
        self._every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: object, batch: object, batch_idx: int) -> None:
        stepped = not trainer.fit_loop._should_accumulate()
        if stepped and self._every_n_steps and trainer.global_step % self._every_n_steps == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._every_n_steps is None:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._folder / f"{trainer.global_step}.ckpt")


def make_trainer(folder: Path, accumulation: int, every_n_steps: int | None, **limits: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accumulate_grad_batches=accumulation,
        callbacks=[Saver(folder, every_n_steps)],
        **limits,
    )


def last_checkpoint(folder: Path) -> tuple[Path, int]:
    checkpoint = max(folder.glob("*.ckpt"), key=lambda file: int(file.stem))
    return checkpoint, int(checkpoint.stem)


def compare(
    folder: Path, *, workers: int, accumulation: int, every_n_steps: int | None, dies_at: int, limits: dict[str, int]
) -> None:
    whole, dead, resumed = Recorder(), Recorder(dies_at), Recorder()
    make_trainer(folder / "whole", accumulation, every_n_steps, **limits).fit(whole, PairData(7, 0))
    with pytest.raises(Killed):
        make_trainer(folder / "dead", accumulation, every_n_steps, **limits).fit(dead, PairData(7, workers))
    checkpoint, step = last_checkpoint(folder / "dead")
    trainer = make_trainer(folder / "resumed", accumulation, every_n_steps, **limits)
    trainer.fit(resumed, PairData(7, workers), ckpt_path=checkpoint)

    seen = dead.batches[: step * accumulation] + resumed.batches
    assert len(resumed.batches) == len(whole.batches) - step * accumulation > 0
    assert [epoch for epoch, _ in seen] == [epoch for epoch, _ in whole.batches]
    assert all(equal(a, b) for (_, a), (_, b) in zip(seen, whole.batches, strict=True))
    assert resumed.weight.item() == whole.weight.item()


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 10}])
@pytest.mark.parametrize(
    ("every_n_steps", "dies_at_step"),
    [
        (1, 2),  # in the middle of the first epoch
        (3, 7),  # in the middle of the second
        (4, 5),  # saved at the last batch of the first epoch
        (None, 9),  # saved at the end of the second epoch
    ],
)
def test_resumed_batches_equal_those_of_the_run_that_lived(
    tmp_path: Path, every_n_steps: int | None, dies_at_step: int, limits: dict[str, int]
) -> None:
    compare(tmp_path, workers=0, accumulation=2, every_n_steps=every_n_steps, dies_at=2 * dies_at_step + 1, limits=limits)


def test_resuming_twice_where_the_trainer_counts_an_epoch_twice(tmp_path: Path) -> None:
    limits = {"max_steps": 14}
    whole, first, second, third = Recorder(), Recorder(9), Recorder(11), Recorder()
    make_trainer(tmp_path / "whole", 1, None, **limits).fit(whole, PairData(7, 0))
    with pytest.raises(Killed):
        make_trainer(tmp_path / "first", 1, None, **limits).fit(first, PairData(7, 0))
    checkpoint, _ = last_checkpoint(tmp_path / "first")
    with pytest.raises(Killed):
        make_trainer(tmp_path / "second", 1, 1, **limits).fit(second, PairData(7, 0), ckpt_path=checkpoint)
    checkpoint, step = last_checkpoint(tmp_path / "second")
    make_trainer(tmp_path / "third", 1, 1, **limits).fit(third, PairData(7, 0), ckpt_path=checkpoint)
    seen = first.batches[:8] + second.batches + third.batches
    assert step == 11
    assert all(equal(a, b) for (_, a), (_, b) in zip(seen, whole.batches, strict=True))


def test_resuming_with_workers_that_pack_ahead(tmp_path: Path) -> None:
    compare(tmp_path, workers=2, accumulation=1, every_n_steps=3, dies_at=4, limits={"max_epochs": 2})


@pytest.mark.parametrize("limits", [{"limit_train_batches": 3}, {"limit_train_batches": 0.9}])
def test_epochs_cut_inside_a_step_are_refused(tmp_path: Path, limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="whole optimizer steps of 2 batches"):
        make_trainer(tmp_path, 2, None, max_epochs=1, **limits).fit(Recorder(), PairData(7, 0))


def test_overfitting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected overfit_batches: 0, got 2"):
        make_trainer(tmp_path, 2, None, max_epochs=1, overfit_batches=2).fit(Recorder(), PairData(7, 0))


def test_epochs_differ_and_validation_sees_every_example_once(tmp_path: Path) -> None:
    module = Recorder()
    make_trainer(tmp_path, 1, None, max_epochs=2, num_sanity_val_steps=0).fit(module, PairData(7, 0))
    epochs = [[batch for number, batch in module.batches if number == epoch] for epoch in range(2)]
    assert [len(batches) for batches in epochs] == [STEPS_PER_EPOCH] * 2
    assert not equal(epochs[0][0], epochs[1][0])
    assert module.num_validated == 2 * 5


def test_limited_epochs_start_at_the_start_of_the_next(tmp_path: Path) -> None:
    limited, whole = Recorder(), Recorder()
    make_trainer(tmp_path / "limited", 1, None, max_epochs=2, limit_train_batches=2).fit(limited, PairData(7, 0))
    make_trainer(tmp_path / "whole", 1, None, max_epochs=2).fit(whole, PairData(7, 0))
    expected = [batch for epoch in range(2) for batch in whole.batches[epoch * STEPS_PER_EPOCH :][:2]]
    assert all(equal(a[1], b[1]) for a, b in zip(limited.batches, expected, strict=True))
