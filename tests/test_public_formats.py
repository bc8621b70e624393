"""The configs of UltraFeedback and of the COMMON-like mixture train as they stand on files in the public data sets' own format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from run_folder.rows import read_rows
from tests import tiny
from train import main

ROOT = Path(__file__).parent.parent
COUNT = 48


def asked(number: int) -> str:
    return f"w1 w{number % 28} w{number // 28}"


def turns(number: int, reply: str) -> list[dict[str, str]]:
    return [{"content": asked(number), "role": "user"}, {"content": reply, "role": "assistant"}]


def write_ultrafeedback(path: Path) -> Path:
    """The columns of `HuggingFaceH4/ultrafeedback_binarized`, in its own kind of file; the last row is a pair of equal texts."""
    rows: list[dict[str, Any]] = [
        {
            "prompt": asked(number),
            "prompt_id": f"{number:064x}",
            "chosen": turns(number, "w3 w4 w5"),
            "rejected": turns(number, "w6 w7" if number < COUNT - 1 else "w3 w4 w5"),
            "messages": turns(number, "w3 w4 w5"),
            "score_chosen": 8.5,
            "score_rejected": 8.0 - number % 5,
        }
        for number in range(COUNT)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a small CPU changes of an experiment: another model, a few pairs and steps."""
    monkeypatch.chdir(ROOT)
    small = {
        "model.policy.path": str(tiny.write_model(tmp_path / "model")),
        "model.cache_dir": str(tmp_path / "cache"),
        "data.batch_size": "6",
        "data.max_length": "32",
        "data.max_prompt_length": "20",
        "trainer.max_steps": "3",
        "trainer.accelerator": "cpu",
        "trainer.devices": "1",
        "trainer.precision": "32-true",
        "trainer.logger.save_dir": str(tmp_path / "runs"),
    }
    return [word for key, value in small.items() for word in (f"--{key}", value)]


def fit(experiment: str, options: list[str], folder: Path) -> Path:
    """The run's folder."""
    main(["fit", "--config", f"configs/experiment/{experiment}.yaml", *options])
    return folder / "runs" / experiment / "version_0"


def test_ultrafeedback(tmp_path: Path, options: list[str]) -> None:
    pairs = str(write_ultrafeedback(tmp_path / "train_prefs-00000-of-00001.parquet"))
    run = fit("ultrafeedback_dpo", [*options, "--data.train.path", pairs, "--data.val.path", pairs], tmp_path)
    assert read_rows(run, "likelihood")[-1]["step"] == 3
    # The pair of equal texts was left out, and counted.
    report = json.loads((run / "data_train.json").read_text(encoding="utf-8"))
    assert report["rows_kept"] == COUNT - 1
    assert list(report["faults"]) == ["chosen equals rejected"]


def test_common(tmp_path: Path, options: list[str]) -> None:
    """Three sources, each watched apart."""
    dialogue = "\n\nHuman: {}\n\nAssistant: "
    pairs = {
        "hh_harmless": write_lines(
            tmp_path / "hh.jsonl",
            [{"chosen": dialogue.format(asked(n)) + "w3 w4", "rejected": dialogue.format(asked(n)) + "w8"} for n in range(COUNT)],
        ),
        "ultrafeedback": write_ultrafeedback(tmp_path / "ultrafeedback.parquet"),
        "alpaca_eval": write_lines(
            tmp_path / "alpaca_eval.jsonl", [{"prompt": asked(n), "chosen": "w9", "rejected": "w10 w11"} for n in range(COUNT)]
        ),
    }
    paths = [word for name, path in pairs.items() for word in (f"--data.parts.{name}.train.path", str(path))]
    run = fit("common_dpo", [*options, *paths, "--data.val_fraction", "0.2"], tmp_path)
    assert read_rows(run, "likelihood")[-1]["step"] == 3
    watched = {metric.split("/")[1] for row in read_rows(run, "source") for metric in row if metric != "step"}
    assert watched == set(pairs)
