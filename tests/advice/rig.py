"""A tiny run to be forked, with all its checkpoints, and a fit that counts what it is asked for."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import train
from advice.answer import Answer
from advice.command import advise, arguments
from advice.settings import Config
from tests import tiny

LAST = 12
WATCHED: list[dict[str, Any]] = [
    {
        "class_path": "callbacks.saving.checkpoint.RunCheckpoint",
        "init_args": {"every_n_train_steps": 4, "keep_all": True},
    },
    {
        "class_path": "callbacks.diagnostics.likelihood.LikelihoodMonitor",
        "init_args": {"every_n_steps": 1, "probe_every_n_steps": 4},
    },
    {"class_path": "callbacks.diagnostics.disentanglement.DisentanglementMonitor", "init_args": {"every_n_steps": 1}},
    {"class_path": "callbacks.saving.policy_export.PolicyExport"},
]


def dpo_config(folder: Path, **trainer: Any) -> dict[str, Any]:
    """DPO of the tiny policy on random pairs, a third of which are held out."""
    return {
        "seed_everything": 3,
        "trainer": tiny.trainer(folder, WATCHED, max_steps=LAST, max_epochs=-1, **trainer),
        "model": tiny.module(folder),
        "data": tiny.pair_data(folder, val_fraction=0.3, count=30),
    }


def make_run(folder: Path, config: dict[str, Any]) -> Path:
    """Train, and give the run's folder."""
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    fit(path, config)
    return folder / "runs" / "experiment" / "version_0"


def fit(path: Path, _: Config) -> None:
    """Train as `advise.py` does, in this process, quietly."""
    argv, sys.argv = sys.argv, ["train.py"]
    try:
        # What a remedy changes is warned of, as in any resumed run.
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train.main(["fit", "--config", str(path)])
    finally:
        sys.argv = argv


def ask(run: Path, *options: object, fit: Callable[[Path, Config], None] = fit) -> Answer:
    """What `advise.py` answers."""
    return advise(arguments([str(run), *map(str, options)]), fit, Console(file=StringIO()), printed)


def printed(words: Sequence[str]) -> str:
    """What `train.py` prints."""
    text, argv = StringIO(), sys.argv
    sys.argv = ["train.py"]
    try:
        with redirect_stdout(text), suppress(SystemExit):
            train.main(list(words))
    finally:
        sys.argv = argv
    return text.getvalue()


def digest(folder: Path) -> str:
    """Of every file's name and content."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            whole.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return whole.hexdigest()
