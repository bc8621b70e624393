"""Two processes write the pool and the table of answers that one writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench.gloo import together
from run_folder.rows import read_rows
from tests.test_sampling import JUDGE, sampling_config
from train import main

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
FSDP2 = "lightning.pytorch.strategies.ModelParallelStrategy"
STRATEGIES: dict[str, Any] = {
    "one": "auto",
    "ddp": "ddp",
    "fsdp2": {"class_path": FSDP2, "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1}},
}


def write_configs(home: Path) -> None:
    for strategy, value in STRATEGIES.items():
        folder = home / strategy
        folder.mkdir()
        for name, prompts_per_batch in (("begin", 3), ("rest", 4)):
            parts = sampling_config(folder, "pool.jsonl")
            table = {"class_path": "callbacks.answers.results_table.ResultsTable", "init_args": {"judge": JUDGE}}
            parts["trainer"] |= {"strategy": value, "devices": 1 if strategy == "one" else 2}
            parts["trainer"]["callbacks"].append(table)
            decoding = {"num_samples": 2, "temperature": 1.0, "max_new_tokens": 12, "prompts_per_batch": 2}
            parts["data"]["init_args"] |= {"prompts_per_batch": prompts_per_batch, "test_decoding": decoding}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(parts), encoding="utf-8")


def answer(home: Path, strategies: list[str]) -> None:
    """In each process: a pool that is begun, its rest, and a test of seven problems."""
    torch.set_num_threads(1)
    for strategy in strategies:
        begin, rest = (str(home / strategy / f"{name}.yaml") for name in ("begin", "rest"))
        main(["predict", "--config", begin, "--trainer.limit_predict_batches", "1"])
        main(["predict", "--config", rest])
        main(["test", "--config", rest])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    write_configs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        together(1, answer, folder, ["one"])
        together(2, answer, folder, ["ddp", "fsdp2"])
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_the_pool_is_that_of_one_process(home: Path, strategy: str) -> None:
    whole = (home / "one" / "pool.jsonl").read_bytes()
    assert whole.count(b"\n") == 10
    assert (home / strategy / "pool.jsonl").read_bytes() == whole


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_the_table_and_the_answers_are_those_of_one_process(home: Path, strategy: str) -> None:
    def rows(name: str, of: str) -> list[dict[str, Any]]:
        (run,) = {path.parent.parent for path in (home / of / "runs").glob("*/*/diagnostics/test.jsonl")}
        return read_rows(run, name)

    assert len(rows("test_responses", "one")) == 14
    for name in ("test_responses", "test"):
        assert rows(name, strategy) == rows(name, "one")
