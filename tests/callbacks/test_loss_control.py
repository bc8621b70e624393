"""What changes the loss or the reference while the policy trains: a schedule, a running mean, a reference that follows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD

from callbacks.control.batch_beta import BatchBeta
from callbacks.control.loss_schedule import LossSchedule, with_number
from callbacks.control.sync_reference import SyncReference
from callbacks.diagnostics.lazy_likelihood import LazyLikelihood, step_effect
from callbacks.saving.checkpoint import RunCheckpoint
from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from lightning_modules.losses.base import Loss
from lightning_modules.losses.beta_dpo import BetaDPOLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.dpo_shift import DPOShiftLoss
from lightning_modules.models.online_reference import OnlineReference
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
]

MICROBATCHES = [[0, 1], [2, 3], [1, 4], [0, 3]]


class Watch(Callback):
    """The loss and the reference log-probs that each step was made with."""

    def __init__(self) -> None:
        self.losses: list[Any] = []
        self.batches: list[CompletionBatch] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: CompletionBatch, batch_idx: int) -> None:
        self.losses.append(outputs["step"].pairs and pl_module.loss)
        self.batches.append(batch)


def module(folder: Path, loss: Loss, **options: Any) -> PreferenceModule:
    return PreferenceModule(BigramSpec(), loss, partial(SGD, lr=0.5), cache_dir=str(folder / "cache"), **options)


def trained(
    folder: Path, loss: Loss, *callbacks: Callback, accumulate: int = 1, **options: Any
) -> tuple[PreferenceModule, Trainer]:
    made = module(folder, loss, **options.pop("module", {}))
    data = ProbedPairs(PAIRS, MICROBATCHES, accumulate)
    return made, fit(made, list(callbacks), folder, data=data, accumulate=accumulate, **options)


def test_a_schedule_sets_the_number_of_each_step(tmp_path: Path) -> None:
    schedule = LossSchedule("shift", 0.5, 1.0, 2)
    seen: list[float] = []

    class Before(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(pl_module.loss.shift)

    trained(tmp_path, DPOShiftLoss(), schedule, Before())
    assert seen == [0.5, 0.75, 1.0, 1.0]


def test_a_schedule_counts_optimizer_steps(tmp_path: Path) -> None:
    seen: list[float] = []

    class Before(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(pl_module.loss.loss.beta)

    trained(tmp_path, CalibratedLoss(), LossSchedule("loss.beta", 0.1, 0.3, 2), Before(), accumulate=2)
    assert seen == pytest.approx([0.1, 0.1, 0.2, 0.2])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shft", 0.5, "expected a number of DPOShiftLoss to change, got shft. It has beta, shift"),
        ("shift", 1.5, r"expected shift in \(0, 1\], got 1.5"),
        ("shift.beta", 0.5, "expected a number of DPOShiftLoss to change, got shift.beta"),
    ],
)
def test_a_schedule_of_nothing_is_refused_before_the_first_step(field: str, value: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, DPOShiftLoss(), LossSchedule(field, 0.5, value, 2))
    assert with_number(DPOShiftLoss(), "shift", 0.7) == DPOShiftLoss(shift=0.7)


def test_the_running_mean_of_margins_goes_into_the_next_step(tmp_path: Path) -> None:
    watch = Watch()
    _, trainer = trained(tmp_path, BetaDPOLoss(beta=0.3), BatchBeta(decay=0.5), watch)
    rows = read_rows(Path(trainer.log_dir or ""), "batch_beta")
    mean = 0.0
    for row in rows:
        mean = 0.5 * mean + 0.5 * row["batch_beta/margin"]
        assert row["batch_beta/mean_margin"] == pytest.approx(mean)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["batch_beta/margin"] == pytest.approx(0, abs=1e-6)
    assert abs(rows[-1]["batch_beta/margin"]) > 1e-3


def test_batch_beta_needs_its_loss(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected BetaDPOLoss, whose mean_margin BatchBeta sets, got DPOLoss"):
        trained(tmp_path, DPOLoss(), BatchBeta())


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_log_probs_of_a_reference_that_follows_are_those_of_its_weights(share: float, tmp_path: Path) -> None:
    watch, weights = Watch(), []

    class After(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            weights.append({name: p.detach().clone() for name, p in pl_module.policy.state_dict().items()})

    made, _ = trained(tmp_path, DPOLoss(beta=0.5), watch, After(), SyncReference(2, share), module={"reference": OnlineReference()})
    start = BigramSpec().build()
    expected = {name: weight.lerp(weights[1][name], share) for name, weight in start.state_dict().items()}
    moved = BigramSpec().build()
    moved.load_state_dict(expected)
    for number, reference in ((0, start), (1, start), (2, moved), (3, moved)):
        logps = watch.batches[number].reference_token_logps
        assert logps is not None
        torch.testing.assert_close(logps, reference(watch.batches[number]).logps.detach(), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(start.table, moved.table)
    assert made.online_reference is not None


def test_a_scored_reference_cannot_follow(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a reference that is evaluated at every step"):
        trained(tmp_path, DPOLoss(), SyncReference(1))


@pytest.mark.parametrize(
    ("loss", "make"),
    [
        (BetaDPOLoss(beta=0.3), lambda: BatchBeta()),
        (DPOShiftLoss(beta=0.3), lambda: LossSchedule("shift", 0.5, 1.0, 4)),
        (DPOLoss(beta=0.5), lambda: SyncReference(1, 0.5)),
    ],
    ids=["batch_beta", "loss_schedule", "sync_reference"],
)
def test_a_resumed_run_ends_with_the_same_bits(loss: Loss, make: Callable[[], Callback], tmp_path: Path) -> None:
    online: dict[str, Any] = {"module": {"reference": OnlineReference()}}
    whole, _ = trained(tmp_path / "whole", loss, make(), max_epochs=2, **online)
    _, first = trained(tmp_path / "first", loss, make(), RunCheckpoint(), max_epochs=1, **online)
    checkpoint = next((Path(first.log_dir or "") / "checkpoints").glob("*.ckpt"))
    resumed, _ = trained(tmp_path / "second", loss, make(), RunCheckpoint(), max_epochs=2, ckpt_path=str(checkpoint), **online)
    for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_a_step_does_is_told_by_kind() -> None:
    batch = pack(PAIRS[:2])
    before = torch.full((batch.num_targets,), -1.0)
    after = before + torch.where(batch.target_sequence == 0, 0.1, torch.where(batch.target_sequence == 3, -0.1, 0.0))
    values = step_effect(batch, before, after)
    assert values["chosen/gain_per_token"].tolist() == pytest.approx([0.1, 0.0])
    assert values["rejected/fell"].tolist() == [False, True]
    assert values["chosen/stagnant"].tolist() == [False, True]


def test_a_step_is_read_before_and_after(tmp_path: Path) -> None:
    _, trainer = trained(tmp_path, DPOLoss(beta=0.5), LazyLikelihood(1), accumulate=2)
    rows = read_rows(Path(trainer.log_dir or ""), "lazy_likelihood")
    assert [row["step"] for row in rows] == [1, 2]
    policy = BigramSpec().build()
    batch = pack(PAIRS[:4])
    start = policy(batch)
    sums = start.sum_by_sequence()
    chosen, rejected = sums[batch.pairs].unbind(1)
    torch.nn.functional.logsigmoid(0.5 * (chosen - chosen.detach() - rejected + rejected.detach())).neg().mean().backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.5 * parameter.grad)
        gains = ((policy(batch).sum_by_sequence() - sums) / batch.lengths)[batch.pairs[:, 0]]
    assert rows[0]["lazy_likelihood/chosen/gain_per_token"] == pytest.approx(gains.mean().item(), rel=1e-3)
    chosen, rejected = (rows[0][f"lazy_likelihood/{side}/gain_per_token"] for side in ("chosen", "rejected"))
    assert rows[0]["lazy_likelihood/lift"] == pytest.approx(chosen / (abs(chosen) + abs(rejected)))
