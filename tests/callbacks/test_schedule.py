"""When callbacks act: written down by hand for short trainings, and held against what Lightning calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from typing_extensions import override

from callbacks.schedule import Schedule, Scheduled


class Steps(Scheduled):
    """Notes the steps at which it acts."""

    def __init__(self, every_n_steps: int) -> None:
        self.schedule = Schedule(every_n_steps)
        self.steps: list[int] = []

    @override
    def act(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps.append(trainer.global_step)


class NeverBegun(Steps):
    @override
    def has_begun(self, trainer: Trainer) -> bool:
        return False


def fit(folder: Path, callback: Steps, steps: int, accumulate: int = 1, resume: str | None = None) -> list[int]:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(BoringModel(), ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return callback.steps


@pytest.mark.parametrize(
    ("every", "steps", "accumulate", "acts_at"),
    [(2, 5, 1, [0, 2, 4, 5]), (2, 4, 1, [0, 2, 4]), (9, 4, 2, [0, 4]), (1, 3, 2, [0, 1, 2, 3])],
)
def test_it_acts_at_the_start_every_n_steps_and_at_the_end_once(
    tmp_path: Path, every: int, steps: int, accumulate: int, acts_at: list[int]
) -> None:
    assert fit(tmp_path, Steps(every), steps, accumulate) == acts_at


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_run_has_no_second_start_unless_the_first_is_missing(tmp_path: Path) -> None:
    fit(tmp_path, Steps(2), 3)
    assert fit(tmp_path, Steps(2), 5, resume=str(tmp_path / "3.ckpt")) == [4, 5]
    with pytest.warns(UserWarning, match="no first reading of NeverBegun: changes are counted from step 3"):
        assert fit(tmp_path, NeverBegun(9), 5, resume=str(tmp_path / "3.ckpt")) == [3, 5]


@pytest.mark.parametrize(("also_step_1", "due"), [(False, [3, 6]), (True, [1, 3, 6])])
def test_step_1_is_due_where_training_batches_are_read(also_step_1: bool, due: list[int]) -> None:
    schedule = Schedule(3, also_step_1=also_step_1)
    assert [step for step in range(1, 8) if schedule.is_due(step)] == due


def test_a_cadence_below_1_is_refused() -> None:
    settings: dict[str, Any] = {"every_n_steps": 0}
    with pytest.raises(ValueError, match="every_n_steps >= 1, got 0"):
        Schedule(**settings)
