"""A loss that reads a mean or an order over the optimizer step takes the step of one batch, however the step is cut."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.optim import SGD
from torch.utils.data import DataLoader

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.examples import Example
from datamodules.unpaired import taken_apart, with_mismatched
from lightning_modules.losses.aot import AOTLoss
from lightning_modules.losses.aot_unpaired import AOTUnpairedLoss
from lightning_modules.losses.base import Loss, Reads
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.losses.unpaired_bco import UnpairedBCOLoss
from lightning_modules.losses.unpaired_kto import UnpairedKTOLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.steps.microbatches import completions_of, sums_of
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

StepLoss = KTOLoss | AOTLoss | AOTUnpairedLoss | UnpairedKTOLoss | UnpairedBCOLoss
LOSSES: list[StepLoss] = [
    KTOLoss(beta=0.5),
    AOTLoss(beta=0.5),
    AOTUnpairedLoss(beta=0.5),
    UnpairedKTOLoss(beta=0.5),
    UnpairedBCOLoss(beta=0.5),
]
WHOLE = [[0, 1, 2, 3, 4, 5]]
CUT = [[0], [1, 2, 3], [4, 5]]


def examples_of(loss: Loss) -> list[Example]:
    """Six prompts with what the loss reads."""
    pairs = make_pairs(6)
    if loss.reads is not Reads.COMPLETIONS:
        return pairs
    singles = [next(iter(taken_apart(pair))) if number % 3 else list(taken_apart(pair))[1] for number, pair in enumerate(pairs)]
    return with_mismatched(singles, 0)


def trained(loss: Loss, microbatches: list[list[int]], folder: Path, **options: Any) -> PreferenceModule:
    """After two steps of all six pairs: at the first one every log-ratio is 0, and nothing could differ."""
    module = PreferenceModule(TINY, loss, partial(SGD, lr=0.5), cache_dir=str(folder))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=len(microbatches),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(module, datamodule=InMemoryPairs(examples_of(loss), microbatches * 3, len(microbatches)))
    return module


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_accumulation_takes_the_step_of_one_batch(loss: StepLoss, tmp_path: Path) -> None:
    whole, cut = trained(loss, WHOLE, tmp_path), trained(loss, CUT, tmp_path)
    apart = trained(replace(loss, beta=0.05), WHOLE, tmp_path)
    differs = 0.0
    for a, b, c in zip(whole.policy.parameters(), cut.policy.parameters(), apart.policy.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)
        differs += float((a - c).detach().abs().sum())
    assert differs > 1e-2, "the same steps would come of anything"


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_microbatch_by_itself_would_take_another_step(loss: StepLoss, tmp_path: Path, monkeypatch: Any) -> None:
    whole = trained(loss, WHOLE, tmp_path)
    monkeypatch.setattr(type(loss), "needs_step", False)
    alone = trained(loss, CUT, tmp_path)
    moved = [float((a - b).detach().abs().max()) for a, b in zip(whole.policy.parameters(), alone.policy.parameters(), strict=True)]
    assert max(moved) > 1e-5


def test_a_step_that_is_not_planned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(InMemoryPairs, "packed")
    with pytest.raises(ValueError, match=r"expected a step whose microbatches are planned, because KTOLoss reads all of it"):
        trained(KTOLoss(), CUT, tmp_path)


class Validated(InMemoryPairs):
    """Six prompts to look at, cut as asked, with the reference's log-probs."""

    def _pack(self, *args: Any, **options: Any) -> CompletionBatch:
        batch = super()._pack(*args, **options)
        return replace(batch, reference_token_logps=TINY.build()(batch).logps.detach())

    def val_dataloader(self) -> DataLoader[CompletionBatch]:
        return self.train_dataloader()

    test_dataloader = val_dataloader


@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_validation_loss_is_that_of_the_whole_set(loss: StepLoss, tmp_path: Path) -> None:
    """However the set is cut, it is what the loss gives for all of it in one call; at the start it would be so for any cut."""
    module = trained(loss, WHOLE, tmp_path)
    logged = []
    for cut in (WHOLE, CUT, [[5, 4], [3], [2, 1, 0]]):
        data = Validated(examples_of(loss), cut, len(cut))
        trainer = Trainer(accelerator="cpu", logger=CSVLogger(tmp_path), enable_progress_bar=False)
        again = PreferenceModule(TINY, loss, partial(SGD, lr=0.5), cache_dir=str(tmp_path))
        again.configure_model()
        again.policy.load_state_dict(module.policy.state_dict())
        (validated,) = trainer.validate(again, datamodule=data, verbose=False)
        (tested,) = trainer.test(again, datamodule=data, verbose=False)
        assert tested["test/loss"] == validated["val/loss"]
        logged.append(validated["val/loss"])
    whole = next(iter(Validated(examples_of(loss), WHOLE, 1)._batches()))
    stats = module.policy(whole)
    expected = loss.of(completions_of(whole, stats, sums_of(whole, stats), None)).losses.mean().item()
    assert logged == pytest.approx([expected] * 3, rel=1e-5)
    assert abs(expected - {"KTOLoss": 1.0, "UnpairedKTOLoss": 0.5}.get(type(loss).__name__, 0.6931)) > 1e-4


class Sharded(InMemoryPairs):
    """Every rank takes its own microbatches of a step."""

    def train_dataloader(self) -> DataLoader[CompletionBatch]:
        assert self.trainer is not None
        rank, size = self.trainer.global_rank, self.trainer.world_size
        own = self.accumulate // size
        batches = list(self._batches())
        steps = [batches[start : start + self.accumulate] for start in range(0, len(batches), self.accumulate)]
        mine = [replace(batch, step_examples=batch.step_examples[rank::size]) for step in steps for batch in step[rank::size]]
        assert len(mine) == len(steps) * own
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]


class SavesWeights(Callback):
    """The weights after the fit, for another process to read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            torch.save(pl_module.policy.state_dict(), self.path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("microbatches", [[[0, 1], [2, 3, 4, 5]], [[0], [1, 2], [3], [4, 5]]], ids=["two", "four"])
def test_two_processes_take_the_step_of_one_batch(loss: StepLoss, microbatches: list[list[int]], tmp_path: Path) -> None:
    whole = trained(loss, WHOLE, tmp_path)
    path = tmp_path / "weights.pt"
    module = PreferenceModule(TINY, loss, partial(SGD, lr=0.5), cache_dir=str(tmp_path))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=len(microbatches) // 2,
        devices=2,
        strategy="ddp_fork",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[SavesWeights(path)],
    )
    trainer.fit(module, datamodule=Sharded(examples_of(loss), microbatches * 3, len(microbatches)))
    together = torch.load(path)
    for name, weight in whole.policy.state_dict().items():
        torch.testing.assert_close(together[name], weight, rtol=1e-5, atol=1e-7)
