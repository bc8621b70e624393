"""Loggers beside TensorBoard: numbers, texts and pictures where each can hold them, and a run folder whichever is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from reports.runs import load_run
from run_folder.rows import read_rows
from tests import test_resume_ppo, tiny
from tests.conftest import Run

CALLBACKS = [
    {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 2}},
    {"class_path": "callbacks.diagnostics.likelihood.LikelihoodMonitor", "init_args": {"every_n_steps": 1}},
    {
        "class_path": "callbacks.diagnostics.softmax_gradient.SoftmaxGradientMonitor",
        "init_args": {"every_n_steps": 1, "histogram_every_n_steps": 1},
    },
    {"class_path": "callbacks.output.token_heatmap.TokenHeatmap", "init_args": {"every_n_steps": 2, "num_examples": 1}},
    {
        "class_path": "callbacks.answers.samples.SampleLogger",
        "init_args": {"every_n_steps": 2, "num_prompts": 1, "sampling": {"max_new_tokens": 3}},
    },
    {
        "class_path": "callbacks.alarms.property_alarm.PropertyAlarm",
        "init_args": {
            "rules": [
                {
                    "property": "told",
                    "conditions": [{"metric": "likelihood/bank/chosen/logp", "below": 0.0, "window": 1}],
                    "says": ["It is below 0."],
                    "patience": 1,
                }
            ]
        },
    },
]


class Kept(Logger):
    """A logger of a service: no folder, and what it is given is kept."""

    numbers: ClassVar[list[tuple[int, dict[str, float]]]] = []
    settings: ClassVar[list[Mapping[str, Any]]] = []

    def __init__(self, name: str | None = None, save_dir: str = "elsewhere") -> None:
        super().__init__()
        self._name = name

    @property
    @override
    def name(self) -> str | None:
        return self._name

    @property
    @override
    def version(self) -> str:
        return "abc"

    @override
    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.numbers.append((step, dict(metrics)))

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:  # type: ignore[override]
        self.settings.append(params)


def experiment(folder: Path, stage: str, logger: object) -> Path:
    """Two steps of a stage with everything that shows something; returns its config."""
    config: dict[str, Any]
    if stage == "ppo":
        config = test_resume_ppo.config(folder)
        callbacks = [*CALLBACKS[:2], *CALLBACKS[4:]]
    else:
        kind = {"supervised": stage == "sft"}
        data, module = tiny.pair_data(folder, **kind), tiny.module(folder, **kind)
        config, callbacks = {"seed_everything": 1, "model": module, "data": data}, CALLBACKS
    config["trainer"] = tiny.trainer(folder, callbacks, max_steps=2, limit_val_batches=0, max_epochs=-1, logger=logger)
    path = folder / f"tiny_{stage}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Kept, "numbers", [])
    monkeypatch.setattr(Kept, "settings", [])


KEPT = {"class_path": "tests.test_loggers.Kept", "init_args": {"name": None}}
CSV = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "mine", "name": None}}


@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo"])
def test_a_service_alone_gets_every_number_and_the_run_a_folder(stage: str, run: Run, tmp_path: Path) -> None:
    cli = run("fit", "--config", experiment(tmp_path, stage, KEPT))
    folder = tmp_path / f"runs/tiny_{stage}/version_0"
    assert Path(str(cli.trainer.log_dir)).resolve() == folder
    assert (folder / "checkpoints/last.ckpt").is_file()
    assert read_rows(folder, "samples")
    assert not (tmp_path / "elsewhere").exists()
    sent = {(name, step) for step, numbers in Kept.numbers for name in numbers}
    # The folder has them too, and the page draws them: those of the training from the CSV file.
    kept = {(name, step) for name, track in load_run(folder).tracks.items() for step, _ in track}
    assert {("train/loss", 1), ("train/loss", 2), ("likelihood/bank/chosen/logp", 0)} <= sent <= kept
    (settings,) = Kept.settings
    assert settings["trainer"]["max_steps"] == 2


def test_a_folder_goes_first_wherever_it_is_listed(run: Run, tmp_path: Path) -> None:
    config = experiment(tmp_path, "dpo", [KEPT, CSV])
    cli = run("fit", "--config", config)
    assert [type(logger) for logger in cli.trainer.loggers] == [CSVLogger, Kept]
    folder = tmp_path / "mine/tiny_dpo/version_0"
    assert (folder / "checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "runs").exists()
    assert [logger.name for logger in cli.trainer.loggers] == ["tiny_dpo"] * 2
    # Resumed from the config that it saved: a folder of its own, no step logged twice.
    Kept.numbers.clear()
    resume = ("--ckpt_path", folder / "checkpoints/last.ckpt", "--trainer.max_steps", 4)
    again = run("fit", "--config", folder / "config.yaml", *resume)
    assert Path(str(again.trainer.log_dir)).resolve() == folder.with_name("version_1")
    assert [step for step, numbers in Kept.numbers if "train/loss" in numbers] == [3, 4]


def test_the_command_line_takes_one_logger_or_several(run: Run, tmp_path: Path) -> None:
    config = experiment(tmp_path, "sft", CSV)
    one = run("fit", "--config", config, "--trainer.logger", "tests.test_loggers.Kept")
    assert [type(logger) for logger in one.trainer.loggers] == [CSVLogger, Kept]
    several = run(
        "fit", "--config", config, "--trainer.logger", "[tests.test_loggers.Kept, CSVLogger]", "--trainer.logger.save_dir", "x"
    )
    assert [type(logger) for logger in several.trainer.loggers] == [CSVLogger, Kept]
    # Unnamed there: named after the experiment, and not as Lightning would all of them.
    assert Path(str(several.trainer.log_dir)) == Path("x/tiny_sft/version_0")


def test_a_logger_whose_package_is_absent_is_refused_in_words(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("command_line.loggers.find_spec", lambda name: None)
    logger = {"class_path": "lightning.pytorch.loggers.MLFlowLogger"}
    with pytest.raises(
        ValueError, match=r"expected the package mlflow for MLFlowLogger, got none\. Install it: pip install mlflow"
    ):
        run("fit", "--config", experiment(tmp_path, "sft", [CSV, logger]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo"])
def test_weights_and_biases_offline(stage: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"name": None, "offline": True}}
    cli = run("fit", "--config", experiment(tmp_path, stage, logger))
    (service,) = (logger for logger in cli.trainer.loggers if isinstance(logger, WandbLogger))
    summary = dict(service.experiment.summary)
    wandb.finish()
    assert {"train/loss", "likelihood/bank/chosen/logp"} <= summary.keys()
    assert {"samples/0", "notices/told"} <= summary.keys()
    if stage != "ppo":
        assert {"softmax_grad/tokens", "softmax_grad/chosen/l2"} <= summary.keys()
        assert list(tmp_path.rglob("offline-run-*/files/media/images/softmax_grad/tokens_*.png"))
    assert read_rows(tmp_path / f"runs/tiny_{stage}/version_0", "samples")


# Its own, of the database beneath.
@pytest.mark.filterwarnings("default")
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo"])
def test_mlflow_in_a_local_file(stage: str, run: Run, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = {"experiment_name": "prefscope", "tracking_uri": uri, "artifact_location": str(tmp_path / "artifacts")}
    logger = {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": arguments}
    cli = run("fit", "--config", experiment(tmp_path, stage, logger))
    (service,) = (logger for logger in cli.trainer.loggers if isinstance(logger, MLFlowLogger))
    client, run_id = tracking.MlflowClient(uri), str(service.run_id)
    told = client.get_run(run_id).data
    assert [point.step for point in client.get_metric_history(run_id, "train/loss")] == [1, 2]
    assert told.params["trainer/max_steps"] == "2"
    held = {
        str(path.relative_to(tmp_path / "artifacts" / run_id / "artifacts"))
        for path in tmp_path.rglob("artifacts/*/artifacts/**/*.*")
    }
    assert "samples/0/step_000002.md" in held
    if stage != "ppo":
        assert "softmax_grad/tokens/step_000002.png" in held
