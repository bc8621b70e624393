"""The printed command goes further than the run did, and what a resumed run says of itself counts from the first step."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from callbacks.output.run_summary import RunSummary
from tests import tiny
from tests.conftest import Run

CALLBACKS: list[dict[str, Any]] = [
    {"class_path": "checkpoint", "init_args": {"every_n_train_steps": 100}},
    {"class_path": "likelihood", "init_args": {"every_n_steps": 1, "probe_every_n_steps": 1}},
    {"class_path": "degradation", "init_args": {"every_n_steps": 1}},
    {"class_path": "run_summary"},
]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What summaries print."""
    text = io.StringIO()
    init = RunSummary.__init__

    def write_here(summary: RunSummary) -> None:
        init(summary)
        summary._console = Console(file=text, width=200)

    monkeypatch.setattr(RunSummary, "__init__", write_here)
    return text


def command_in(printed: io.StringIO) -> list[str]:
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("Resume:")]
    words = shlex.split(lines[-1].removeprefix("Resume:"))
    assert words[:2] == ["python", "train.py"]
    return words[2:]


def row_of(printed: io.StringIO, name: str) -> list[str]:
    line = [line for line in printed.getvalue().splitlines() if name in line and "│" in line][-1]
    return [cell.strip() for cell in line.split("│")[2:5]]


@pytest.mark.parametrize("limits", [{"max_steps": 2, "max_epochs": 1}, {"max_steps": -1, "max_epochs": 1}, {"max_steps": 5}])
def test_the_printed_command_takes_a_finished_run_further(
    limits: dict[str, int],
    run: Run,
    tmp_path: Path,
    write_config: Callable[[Mapping[str, Any], str], Path],
    printed: io.StringIO,
) -> None:
    # A folder with a space: the command has to be one that a shell reads.
    folder = tmp_path / "my runs"
    folder.mkdir()
    config = {"trainer": tiny.trainer(folder, CALLBACKS, **limits), "model": tiny.module(folder), "data": tiny.pair_data(folder)}
    first = run("fit", "--config", write_config(config, "going_on")).trainer.global_step
    assert first
    second = run(*command_in(printed)).trainer.global_step
    assert second > first
    # And again: the config that the resumed run has saved.
    assert run(*command_in(printed)).trainer.global_step > second


def test_a_resumed_run_counts_from_the_first_step(
    run: Run, tmp_path: Path, write_config: Callable[[Mapping[str, Any], str], Path], printed: io.StringIO
) -> None:
    config = {
        "trainer": tiny.trainer(tmp_path, CALLBACKS, max_steps=4),
        "model": tiny.module(tmp_path),
        "data": tiny.pair_data(tmp_path),
    }
    path = write_config(config, "whole")
    run("fit", "--config", path)
    whole = row_of(printed, "pairs whose chosen fell")
    half = run("fit", "--config", path, "--trainer.max_steps", 2)
    checkpoint = Path(half.trainer.log_dir or "") / "checkpoints/last.ckpt"
    run("fit", "--config", path, "--ckpt_path", checkpoint)
    assert row_of(printed, "pairs whose chosen fell") == whole
