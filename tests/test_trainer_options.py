"""Options of Lightning's trainer with the callbacks that shipped configs list: they work, or are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch.optim import SGD

from callbacks.answers.samples import SampleLogger
from callbacks.control.matmul_precision import MatmulPrecision
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.saving.checkpoint import RunCheckpoint
from callbacks.saving.policy_export import PolicyExport
from datamodules.contracts.prompts import Sampling
from datamodules.pool.rollouts import RolloutDataModule
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.optimization.trainer_options import settle_options
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows
from tests import tiny
from tests.callbacks.rig import BigramPolicy, BigramSpec, fit
from tests.conftest import Run

Write = Callable[[Mapping[str, Any], str], Path]
SHIPPED = yaml.safe_load((Path(__file__).parent.parent / "configs/trainer/default.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def experiment(tmp_path: Path, write_config: Write) -> Path:
    """DPO of the tiny policy for four steps, with every callback of the shipped trainer."""
    trainer = tiny.trainer(tmp_path, SHIPPED["callbacks"], max_steps=4, enable_progress_bar=True, enable_model_summary=True)
    config = {"seed_everything": 1, "trainer": trainer, "model": tiny.module(tmp_path), "data": tiny.pair_data(tmp_path)}
    return write_config(config, "tiny")


def names(trainer: Trainer) -> set[str]:
    return {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers", "ignore:.*smaller than the logging interval")
def test_what_is_switched_off_is_left_out(run: Run, experiment: Path) -> None:
    off = [f"--trainer.enable_{name}=false" for name in ("progress_bar", "checkpointing", "model_summary")]
    trainer = run("fit", "--config", experiment, *off).trainer
    assert trainer.global_step == 4
    assert {"LikelihoodMonitor", "PolicyExport"} <= names(trainer)
    assert not names(trainer) & {"TQDMProgressBar", "RunCheckpoint", "ModelCheckpoint", "ModelSummary"}
    folder = Path(trainer.log_dir or "")
    assert not (folder / "checkpoints").exists()
    assert (folder / "policy").is_dir()
    # What was left out is not in the saved config: it runs again as it is.
    assert run("validate", "--config", folder / "config.yaml").trainer.callback_metrics["val/loss"] > 0
    assert run("fit", "--config", experiment, "--trainer.fast_dev_run", "1").trainer.global_step == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"barebones": "true"}, "expected trainer.barebones: false, got true.*fast_dev_run true"),
        ({"logger": "false"}, "expected TensorBoardLogger or CSVLogger as the first of trainer.logger, got none"),
        ({"overfit_batches": "0.5"}, "expected overfit_batches: 0, got 0.5.*read a slice"),
        ({"limit_train_batches": "3", "accumulate_grad_batches": "2"}, "whole optimizer steps of 2 batches, got 3 batches"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_what_cannot_be_kept_is_refused_in_a_line(options: dict[str, str], words: str, run: Run, experiment: Path) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        run("fit", "--config", experiment, *(f"--trainer.{name}={value}" for name, value in options.items()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit_train_batches": 0}, "limit_train_batches > 0 for a training, got 1, 50, 0"),
        ({"log_every_n_steps": 0}, "log_every_n_steps >= 1 .* got 1, 0, 1.0"),
        ({"accumulate_grad_batches": 0}, "expected accumulate_grad_batches .* got 0, 50, 1.0"),
        ({"callbacks": StochasticWeightAveraging(0.1)}, "expected no StochasticWeightAveraging, got one"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_options_that_train_something_else_are_refused(options: dict[str, Any], words: str) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    with pytest.raises(ValueError, match=words):
        settle_options(trainer, "fit")
    settle_options(trainer, "validate")


@pytest.mark.parametrize(("limit", "accumulate"), [(3, 2), (1, 4)])
def test_a_step_that_samples_is_whole_too(limit: int, accumulate: int) -> None:
    """Without a trainer nothing is limited; with one, the pool is not even read."""
    data = RolloutDataModule(pool="pool.jsonl", scenario=1, tokenizer="tokenizer")
    data.trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, limit_train_batches=limit, accumulate_grad_batches=accumulate
    )
    with pytest.raises(ValueError, match=f"whole optimizer steps of {accumulate} batches, got {limit} batches"):
        data.train_dataloader()


class Weights(Callback):
    """Keeps the table of the policy after each step."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.after.append(cast(BigramPolicy, pl_module.policy).table.detach().double().clone())


def watched(folder: Path, position: int | None) -> tuple[Path, Weights]:
    """A run with monitors, a checkpoint and an export; weights averaged by a callback at that place in the list."""
    seen = Weights()
    sampling = Sampling(max_new_tokens=2)
    callbacks: list[Callback] = [
        seen,
        LikelihoodMonitor(1, 2),
        SampleLogger(2, 2, sampling),
        RunCheckpoint(1),
        PolicyExport(),
    ]
    if position is not None:
        callbacks.insert(position, EMAWeightAveraging(decay=0.5))
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=2.0), cache_dir=str(folder / "cache"))
    return Path(fit(module, callbacks, folder).log_dir or ""), seen


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback", "ignore:You defined a `validation_step`")
@pytest.mark.parametrize("position", [0, 99], ids=["first", "last"])
def test_the_average_is_exported_and_the_trained_weights_are_watched(position: int, tmp_path: Path) -> None:
    """Against the average worked out by hand, and against the rows of a run that averages nothing."""
    plain, _ = watched(tmp_path / "plain", None)
    folder, seen = watched(tmp_path / "averaged", position)
    average, *later = seen.after
    for table in later:
        average = 0.5 * average + 0.5 * table
    assert len(later) == 3
    exported = torch.load(folder / "policy" / "bigram.pt", weights_only=True)["table"]
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["policy.table"]
    for found in (exported, saved):
        torch.testing.assert_close(found.double(), average, atol=1e-6, rtol=1e-5)
    assert (average - later[-1]).abs().max() > 0.01
    for rows in ("likelihood", "on_policy", "samples"):
        assert json.dumps(read_rows(folder, rows)) == json.dumps(read_rows(plain, rows)) != "[]", rows


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers", "ignore:.*smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")
def test_the_trainer_for_a_gpu_runs(run: Run, experiment: Path, tmp_path: Path) -> None:
    """On a CPU here, where float32 products stay what they are."""
    part = Path(__file__).parent.parent / "configs/trainer/gpu.yaml"
    options = ["--trainer.accelerator=cpu", "--trainer.max_steps=2", f"--trainer.logger.save_dir={tmp_path / 'runs'}"]
    trainer = run("fit", "--config", experiment, "--trainer", part, *options).trainer
    assert (trainer.global_step, trainer.precision) == (2, "bf16-mixed")
    assert {"MatmulPrecision", "LikelihoodMonitor", "PolicyExport"} <= names(trainer)
    assert torch.get_float32_matmul_precision() == "highest"


def test_float32_products_are_rounded_on_a_gpu_while_a_command_runs() -> None:
    trainer, module = Trainer(accelerator="cpu", logger=False), LightningModule()
    callback = MatmulPrecision("high")
    for device, expected in (("cuda", "high"), ("cpu", "highest")):
        cast(Any, trainer.strategy)._root_device = torch.device(device)
        callback.setup(trainer, module, "fit")
        assert torch.get_float32_matmul_precision() == expected
        callback.teardown(trainer, module, "fit")
        assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="highest or high, got 'medium'"):
        MatmulPrecision("medium")  # type: ignore[arg-type]
