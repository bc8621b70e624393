"""Hub data sets read row by row: `datasets` itself streams a folder that stands in for one of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml

from datamodules.sources import store_writer
from datamodules.sources.readers import DataSource
from datamodules.text import TextDataModule
from tests import tiny
from tests.conftest import Run

NAME = "owner/pairs"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two files on the hub, in folder and cache of this test."""
    folder = tmp_path / "hub"
    folder.mkdir()
    for number in range(2):
        tiny.write_pairs(folder / f"train-{number}.jsonl", 30, seed=number)
    load, build = datasets.load_dataset, datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: load(_stand_in(path, folder), **options))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda path, **options: build(_stand_in(path, folder), **options))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "copies"))
    return folder


def _stand_in(path: str, folder: Path) -> str:
    assert path == NAME
    return str(folder)


def lines(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]


def streamed(split: str = "train") -> DataSource:
    return DataSource(NAME, split=split, streaming=True)


def test_a_stream_has_the_rows_of_the_files_and_keeps_no_copy(hub: Path, tmp_path: Path) -> None:
    assert list(streamed().rows()) == lines(hub)
    assert not list((tmp_path / "copies").rglob("*.arrow"))


@pytest.mark.parametrize(
    ("split", "part"), [("train[:7]", slice(7)), ("train[25:40]", slice(25, 40)), ("train[55:]", slice(55, None))]
)
def test_some_of_its_rows_are_named_by_their_numbers(hub: Path, split: str, part: slice) -> None:
    assert list(streamed(split).rows()) == lines(hub)[part]


@pytest.mark.parametrize("split", ["train[:10%]", "train[-5:]"])
def test_a_share_of_a_stream_is_refused(hub: Path, split: str) -> None:
    with pytest.raises(ValueError, match=r"some of its rows such as train\[:1000\].*got 'train.*streaming: false"):
        list(streamed(split).rows())


def test_what_is_not_there_is_named(hub: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the rows of 'owner/pairs' \(split 'other'\) from the hub, got 0 and then"):
        list(streamed("other").rows())


def test_the_fingerprint_follows_the_files_without_reading_them(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = streamed().fingerprint()
    assert before == streamed().fingerprint() != streamed("train[:7]").fingerprint()
    tiny.write_pairs(hub / "train-1.jsonl", 31, seed=9)
    assert streamed().fingerprint() != before


def test_a_stream_that_breaks_off_ends_in_words(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = datasets.IterableDataset.__iter__

    def breaking(rows: datasets.IterableDataset) -> Iterator[Any]:
        for number, row in enumerate(read(rows)):
            if number == 40:
                raise ConnectionError("the hub went away")
            yield row

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", breaking)
    with pytest.raises(ValueError, match=r"got 40 and then ConnectionError: the hub went away\. Start again"):
        list(streamed().rows())


def test_a_run_on_a_stream_is_shuffled_resumed_and_the_run_on_a_copy(
    hub: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tokens go through a file in parts: the examples are the same.
    monkeypatch.setattr(store_writer, "SPILL_TOKENS", 100)
    data = tiny.pair_data(tmp_path, train={"path": NAME, "streaming": True}, batch_size=6)
    checkpoint = {"class_path": "callbacks.saving.checkpoint.RunCheckpoint", "init_args": {"every_n_train_steps": 2}}
    trainer = tiny.trainer(tmp_path, [checkpoint], max_epochs=-1, limit_val_batches=0)
    config = tmp_path / "streamed.yaml"
    config.write_text(yaml.safe_dump({"seed_everything": 1, "trainer": trainer, "model": tiny.module(tmp_path), "data": data}))
    whole = run("fit", "--config", config, "--trainer.max_steps", 12)
    short = run("fit", "--config", config, "--trainer.max_steps", 5)
    last = Path(str(short.trainer.log_dir)) / "checkpoints/last.ckpt"
    resumed = run("fit", "--config", config, "--trainer.max_steps", 12, "--ckpt_path", last)
    cache = ("--data.cache_dir", tmp_path / "other_cache")
    copied = run("fit", "--config", config, "--trainer.max_steps", 12, "--data.train.streaming", "false", *cache)
    for other in (resumed, copied):
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, other.model.state_dict()[name]), name
    assert isinstance(whole.datamodule, TextDataModule)
    step = whole.datamodule.step_plan().compositions(0)[0]
    assert sorted(index for part in step for index in part) != list(range(6)), "shuffled"
