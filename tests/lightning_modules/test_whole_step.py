"""A loss that reads a mean or an order over the optimizer step takes the step of one batch, however the step is cut."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import SGD

from lightning_modules.losses.aot import AOTLoss
from lightning_modules.losses.aot_unpaired import AOTUnpairedLoss
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.losses.kto import KTOLoss
from lightning_modules.preference import PreferenceModule
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

LOSSES: list[KTOLoss | AOTLoss | AOTUnpairedLoss] = [KTOLoss(beta=0.5), AOTLoss(beta=0.5), AOTUnpairedLoss(beta=0.5)]
WHOLE = [[0, 1, 2, 3, 4, 5]]
CUT = [[0], [1, 2, 3], [4, 5]]


def trained(loss: PreferenceLoss, microbatches: list[list[int]], folder: Path, **options: Any) -> PreferenceModule:
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
    trainer.fit(module, datamodule=InMemoryPairs(make_pairs(6), microbatches * 3, len(microbatches)))
    return module


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_accumulation_takes_the_step_of_one_batch(loss: KTOLoss | AOTLoss | AOTUnpairedLoss, tmp_path: Path) -> None:
    whole, cut = trained(loss, WHOLE, tmp_path), trained(loss, CUT, tmp_path)
    apart = trained(replace(loss, beta=0.05), WHOLE, tmp_path)
    differs = 0.0
    for a, b, c in zip(whole.policy.parameters(), cut.policy.parameters(), apart.policy.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)
        differs += float((a - c).detach().abs().sum())
    assert differs > 1e-2, "the same steps would come of anything"


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_microbatch_by_itself_would_take_another_step(loss: PreferenceLoss, tmp_path: Path, monkeypatch: Any) -> None:
    whole = trained(loss, WHOLE, tmp_path)
    monkeypatch.setattr(type(loss), "needs_step", False)
    alone = trained(loss, CUT, tmp_path)
    moved = [float((a - b).detach().abs().max()) for a, b in zip(whole.policy.parameters(), alone.policy.parameters(), strict=True)]
    assert max(moved) > 1e-5


def test_a_step_that_is_not_planned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(InMemoryPairs, "packed")
    with pytest.raises(ValueError, match=r"expected a step whose microbatches are planned, because KTOLoss reads all of it"):
        trained(KTOLoss(), CUT, tmp_path)
