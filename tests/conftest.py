"""What holds for every test: no network, one thread, and a command line of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Before Lightning, which imports transformers through torchmetrics. A test that needs the network would be a test of the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

torch.set_num_threads(1)

Run = Callable[..., LightningCLI]
"""`run("fit", "--config", ...)`: the command line in this process."""


@pytest.fixture(autouse=True)
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no page at their end: it takes seconds, and has tests of its own."""
    monkeypatch.setattr("callbacks.output.run_report.write_report", lambda folder: None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    import train

    # LightningCLI warns when it is given arguments and the process has some too.
    monkeypatch.setattr("sys.argv", ["train.py"])
    return lambda *arguments: train.main([str(argument) for argument in arguments])


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[Mapping[str, Any], str], Path]:
    """Write an experiment into the test's folder under a name."""

    def write(config: Mapping[str, Any], name: str = "experiment") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        return path

    return write
