from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from callbacks.answers.sampling_bar import SamplingBar
from lightning_modules.models.policy import SamplingProgress
from tests.test_sampling import Write, sampling_config


def _progress(tokens: int, seconds: float, expected: float) -> SamplingProgress:
    return SamplingProgress(num_done=0, num_completions=8, num_tokens=tokens, expected_tokens=expected, seconds=seconds)


def test_rate_and_time_left_are_those_of_the_whole_run() -> None:
    bar = SamplingBar()
    # Half of the first of three batches: as long again for the rest of it, and two more such batches.
    assert bar.describe(_progress(100, 10, 200), 3) == "10 tokens/s, 0:00:50 left"
    bar.latest = _progress(200, 20, 200)
    bar.count_batch()
    # The second one is twice as fast.
    assert bar.describe(_progress(100, 5, 200), 3) == "12 tokens/s, 0:00:20 left"


def test_the_bar_shows_what_predict_draws(
    tmp_path: Path, run: Callable[..., LightningCLI], write_config: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    config = sampling_config(tmp_path, "pool.jsonl")
    config["trainer"]["callbacks"].append({"class_path": "callbacks.answers.sampling_bar.SamplingBar"})
    config["trainer"]["enable_progress_bar"] = True
    run("predict", "--config", write_config(config, "sample"))
    captured = capsys.readouterr()
    assert "tokens/s" in captured.out + captured.err
