"""The command line on tiny experiments: run folders, overrides, and the traps of LightningCLI."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.simpo import SimPOLoss
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.optimization.schedules import WarmupSchedule
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from tests import tiny

Run = Callable[..., LightningCLI]
SIMPO = "lightning_modules.losses.simpo.SimPOLoss"
CHECKPOINT = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 2}}


@pytest.fixture
def experiment(tmp_path: Path, write_config: Callable[[Mapping[str, Any], str], Path]) -> Path:
    """DPO of the tiny policy for two steps."""
    config = {
        "seed_everything": 1,
        "trainer": tiny.trainer(tmp_path, [CHECKPOINT], max_steps=2),
        "model": tiny.module(tmp_path, loss={"class_path": "lightning_modules.losses.dpo.DPOLoss", "init_args": {"beta": 0.3}}),
        "data": tiny.pair_data(tmp_path),
    }
    return write_config(config, "tiny_dpo")


def run_folder(cli: LightningCLI) -> Path:
    assert cli.trainer.log_dir is not None
    return Path(cli.trainer.log_dir)


def test_a_run_goes_to_a_folder_named_after_its_config_and_the_next_one_beside_it(run: Run, experiment: Path) -> None:
    first = run_folder(run("fit", "--config", experiment))
    assert first == experiment.parent / "runs/tiny_dpo/version_0"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    second = run_folder(run("fit", "--config", experiment))
    assert second.parent == first.parent
    assert second != first
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_the_saved_config_runs_again_under_the_same_name_and_validates(run: Run, experiment: Path) -> None:
    first = run("fit", "--config", experiment, "--model.loss.beta", 0.7)
    saved = run_folder(first) / "config.yaml"
    again = run("fit", "--config", saved)
    assert run_folder(again).parent == run_folder(first).parent
    assert again.model.loss == DPOLoss(beta=0.7)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    checkpoint = run_folder(first) / "checkpoints/last.ckpt"
    validated = run("validate", "--config", saved, "--ckpt_path", checkpoint)
    assert (
        validated.trainer.callback_metrics["val/rewards/margins"]
        == first.trainer.validate(first.model, first.datamodule)[0]["val/rewards/margins"]
    )


def test_parts_are_found_beside_the_experiment_from_any_working_directory(
    run: Run, experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = yaml.safe_load(experiment.read_text())
    for name in ("trainer", "model", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.yaml").write_text(yaml.safe_dump(parts[name]))
    composed = tmp_path / "experiment" / "composed.yaml"
    composed.parent.mkdir()
    composed.write_text("seed_everything: 1\ntrainer: ../trainer/part.yaml\nmodel: ../model/part.yaml\ndata: ../data/part.yaml\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run_folder(run("fit", "--config", composed)).parent == tmp_path / "runs/composed"


@pytest.mark.parametrize("way", ["name", "file", "layer"])
def test_a_changed_class_keeps_nothing_of_the_old_ones_arguments(run: Run, experiment: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / "simpo.yaml").write_text(f"class_path: {SIMPO}\n")
    (tmp_path / "layer.yaml").write_text(f"model:\n  init_args:\n    loss:\n      class_path: {SIMPO}\n")
    arguments = {
        "name": ("--model.loss", SIMPO),
        "file": ("--model.loss", tmp_path / "simpo.yaml"),
        "layer": ("--config", tmp_path / "layer.yaml"),
    }[way]
    cli = run("fit", "--config", experiment, *arguments, "--model.optimizer", "torch.optim.SGD")
    # Both have a beta, a learning rate and a weight decay: SimPO's 2.0 and SGD's 0.0 are not the old 0.3 and 0.01.
    assert cli.model.loss == SimPOLoss()
    assert cli.trainer.optimizers[0].defaults["weight_decay"] == 0.0
    assert cli.trainer.optimizers[0].defaults["lr"] == 0.001


def test_an_argument_after_the_changed_class_is_the_new_classs(run: Run, experiment: Path) -> None:
    cli = run("fit", "--config", experiment, "--model.loss", SIMPO, "--model.loss.beta", 5, "--trainer.fast_dev_run", 1)
    assert cli.model.loss == SimPOLoss(beta=5.0)


def test_what_has_no_default_cannot_be_inherited_from_one() -> None:
    for module in (SFTModule, PreferenceModule):
        parameters = inspect.signature(module).parameters
        needed = {name for name in ("policy", "loss", "optimizer") if name in parameters}
        assert {name for name in needed if parameters[name].default is inspect.Parameter.empty} == needed


def test_misspelt_hyperparameters_are_refused_by_name(run: Run, experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("fit", "--config", experiment, "--model.loss.betta", 0.2)
    assert "betta" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("data.format.chosen", "null", None),
        ("data.format.init_args.prompt", "null", None),
        ("data.train.data_dir", "null", None),
        ("model.policy.config", "{model_type: llama, head_dim: null}", {"model_type": "llama", "head_dim": None}),
        ("model.policy.seed", "4", 4),
        ("data.format.rejected", "nullable", "nullable"),
    ],
)
def test_null_is_null_at_any_depth(
    option: str, value: str, expected: object, run: Run, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("fit", "--config", experiment, f"--{option}", value, "--print_config")
    found = yaml.safe_load(capsys.readouterr().out)
    for part in option.split("."):
        found = found[part] if part in found else found["init_args"][part]
    assert found == expected


def test_a_module_that_is_not_ours_is_refused(run: Run, experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("fit", "--config", experiment, "--model", "lightning.pytorch.demos.boring_classes.BoringModel")
    assert "TrainedModule" in capsys.readouterr().err


def test_callbacks_are_appended(run: Run, experiment: Path) -> None:
    cli = run("fit", "--config", experiment, "--trainer.callbacks+", "lightning.pytorch.callbacks.LearningRateMonitor")
    kinds = [type(callback).__name__ for callback in cli.trainer.callbacks]  # type: ignore[attr-defined]
    assert {"RunCheckpoint", "LearningRateMonitor"} <= set(kinds)


def test_callbacks_of_a_config_are_appended_and_those_of_a_part_refused(
    run: Run, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = {"callbacks+": [{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}]}
    (tmp_path / "part.yaml").write_text(yaml.safe_dump(part))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"trainer": part}))
    (tmp_path / "names_it.yaml").write_text("trainer: part.yaml\n")
    with pytest.raises(SystemExit):
        run("fit", "--config", experiment, "--config", tmp_path / "own.yaml", "--print_config")
    printed = capsys.readouterr().out
    assert printed.index("RunCheckpoint") < printed.index("LearningRateMonitor")
    for option, file in (("--trainer", "part.yaml"), ("--config", "names_it.yaml")):
        with pytest.raises(ValueError, match="part file is parsed alone"):
            run("fit", "--config", experiment, option, tmp_path / file, "--print_config")


def test_callbacks_in_the_same_place_of_two_lists_share_nothing(run: Run, experiment: Path) -> None:
    other = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"save_top_k": -1}}]
    cli = run("fit", "--config", experiment, "--trainer.callbacks", str(other), "--trainer.fast_dev_run", 1)
    assert cli.config.fit.trainer.callbacks[0].init_args.every_n_train_steps is None


def test_a_checkpoint_never_overrides_the_config(run: Run, experiment: Path) -> None:
    checkpoint = run_folder(run("fit", "--config", experiment)) / "checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert "hyper_parameters" not in content
    assert "datamodule_hyper_parameters" not in content
    overrides = ("--model.loss.beta", 0.9, "--model.optimizer.lr", 0.5, "--model.optimizer.weight_decay", 0.25)
    with pytest.warns(UserWarning, match=r"'lr': 0.5, 'weight_decay': 0.25"):
        cli = run("fit", "--config", experiment, "--ckpt_path", checkpoint, "--trainer.max_steps", 3, *overrides)
    assert cli.trainer.global_step == 3
    assert cli.model.loss == DPOLoss(beta=0.9)
    group = cli.trainer.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)


def test_schedules_step_once_per_optimizer_step_and_follow_the_config_on_resumption(run: Run, experiment: Path) -> None:
    schedule = ("--model.lr_scheduler", "lightning_modules.optimization.schedules.LinearSchedule", "--model.lr_scheduler.num_steps")
    first = run("fit", "--config", experiment, "--trainer.accumulate_grad_batches", 2, *schedule, 4)
    scheduler = first.trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, WarmupSchedule)
    assert scheduler.last_epoch == first.trainer.global_step == 2
    assert first.trainer.optimizers[0].param_groups[0]["lr"] == 0.01 * (1 - 2 / 4)
    resume = ("--ckpt_path", run_folder(first) / "checkpoints/last.ckpt", "--trainer.max_steps", 3)
    second = run("fit", "--config", experiment, "--trainer.accumulate_grad_batches", 2, *schedule, 10, *resume)
    assert second.trainer.optimizers[0].param_groups[0]["lr"] == 0.01 * (1 - 3 / 10)


def test_a_run_without_a_folder_of_its_own_is_refused(run: Run, experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected TensorBoardLogger or CSVLogger as the first"):
        run("fit", "--config", experiment, "--trainer.logger", "false", "--trainer.default_root_dir", tmp_path)


def test_frozen_parameters_are_not_in_the_optimizer(run: Run, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = RandomPolicy.build
    monkeypatch.setattr(RandomPolicy, "build", lambda spec: freeze_embeddings(build(spec)))
    cli = run("fit", "--config", experiment)
    trained = {id(p) for group in cli.trainer.optimizers[0].param_groups for p in group["params"]}
    assert {name for name, p in cli.model.named_parameters() if id(p) not in trained} == {
        name for name, p in cli.model.named_parameters() if "embed_tokens" in name
    }


def freeze_embeddings(policy: torch.nn.Module) -> torch.nn.Module:
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("embed_tokens" not in name)
    return policy


def test_the_policy_comes_in_eval_mode_and_trains_in_train_mode(
    run: Run, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, step, evaluate = RandomPolicy.build, PreferenceModule.training_step, PreferenceModule.validation_step
    modes: list[tuple[str, bool]] = []

    def train(module: PreferenceModule, *args: Any) -> Any:
        modes.append(("train", module.policy.training))
        return step(module, *args)

    def validate(module: PreferenceModule, *args: Any) -> Any:
        modes.append(("validate", module.policy.training))
        return evaluate(module, *args)

    monkeypatch.setattr(RandomPolicy, "build", lambda spec: build(spec).eval())
    monkeypatch.setattr(PreferenceModule, "training_step", train)
    monkeypatch.setattr(PreferenceModule, "validation_step", validate)
    run("fit", "--config", experiment, "--trainer.val_check_interval", 1)
    assert modes == [("train", True), ("validate", False), ("train", True), ("validate", False)]


def test_version_is_the_projects(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--version")
    assert capsys.readouterr().out.split()[-1] == "0.1.0"


def test_a_checkpoint_that_is_not_there_is_refused_before_any_work(
    run: Run, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(experiment.parent)
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint at nothing.ckpt, got none. Runs keep theirs"):
        run("fit", "--config", experiment, "--ckpt_path", "nothing.ckpt")
    assert not (experiment.parent / "runs").exists()
    run("fit", "--config", experiment)
    with pytest.raises(FileNotFoundError, match=r"newest one here is runs/tiny_dpo/version_0/checkpoints/last.ckpt"):
        run("validate", "--config", experiment, "--ckpt_path", "nothing.ckpt")


def test_a_model_that_is_not_there_is_named(run: Run, experiment: Path) -> None:
    policy = "lightning_modules.models.specs.PretrainedPolicy"
    with pytest.raises(ValueError, match=r"expected a model's folder, a .gguf file or a hub name, got 'no/model'"):
        run("fit", "--config", experiment, "--model.policy", policy, "--model.policy.path", "no/model")


def test_an_empty_file_and_wrong_columns_say_what_to_do(run: Run, experiment: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    with pytest.raises(ValueError, match=r"nothing is left after filtering. It is empty."):
        run("fit", "--config", experiment, "--data.train.path", path)
    path.write_text('{"question": "w1", "good": "w2", "bad": "w3"}\n')
    with pytest.raises(
        ValueError, match=r"(?s)Check the columns that `format` names.*no 'chosen' among \['bad', 'good', 'question'\]"
    ):
        run("fit", "--config", experiment, "--data.train.path", path)
