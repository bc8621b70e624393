"""Prepares the loggers of a run: the run has a folder of its own with any of them, and each gets its name and its settings."""

from __future__ import annotations

from importlib.util import find_spec
from pydoc import locate
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

FOLDERS = (TensorBoardLogger, CSVLogger)
"""Loggers that give every run a new folder, `<save_dir>/<name>/version_N`."""

_PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml"}
"""Lightning's logger -> the package that it needs."""

_OWN = {"save_dir": "runs", "name": None, "version": None, "prefix": "", "flush_logs_every_n_steps": 100}


def give_folder(trainer: Namespace) -> None:
    """Put a logger with a folder first: the list's own, or a CSVLogger that writes to `runs` where it has none.

    Lightning takes the first logger's folder for config, checkpoints and exports. `logger: true` is Lightning's own choice; `false`
    is left to be refused in words.

    Raises:
        ValueError: if the package of a logger is not installed.
    """
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    if not loggers or not all(isinstance(logger, Namespace) for logger in loggers):
        return
    for logger in loggers:
        _require_package(logger.class_path.split(".")[-1])
    loggers = sorted(loggers, key=lambda logger: not _has_folder(logger))
    if not _has_folder(loggers[0]):
        loggers.insert(0, Namespace(class_path="lightning.pytorch.loggers.CSVLogger", init_args=Namespace(_OWN)))
    trainer.logger = loggers if len(loggers) > 1 else loggers[0]


def name_runs(loggers: object, experiment: str) -> None:
    """Give every logger without a name the experiment's: its folder, or what a service calls the run."""
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        arguments = logger.init_args if isinstance(logger, Namespace) else Namespace()
        for key in ("name", "run_name"):
            # Lightning's own default would put the runs of all experiments into one folder.
            if arguments.get(key, "") is None or (arguments.get(key, "") == "lightning_logs" and _has_folder(logger)):
                arguments[key] = experiment


def log_settings(trainer: Trainer, config: dict[str, Any]) -> None:
    """Give the run's settings to loggers that keep them; those with a folder have `config.yaml` beside their files."""
    for logger in trainer.loggers:
        if not isinstance(logger, FOLDERS):
            logger.log_hyperparams(config)


def _require_package(logger: str) -> None:
    package = _PACKAGES.get(logger)
    if package is not None and find_spec(package) is None:
        raise ValueError(f"expected the package {package} for {logger}, got none. Install it: pip install {package}.")


def _has_folder(logger: Namespace) -> bool:
    kind = locate(logger.class_path)
    return isinstance(kind, type) and issubclass(kind, FOLDERS)
