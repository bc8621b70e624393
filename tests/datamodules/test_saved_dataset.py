"""Folders of `Dataset.save_to_disk`, read by us and by the library that wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.feather
import pytest

from datamodules.contracts.records import BadRowError
from datamodules.sources.readers import DataSource

ROWS: list[dict[str, object]] = [
    {"prompt": [{"role": "user", "content": f"诗 {i}"}], "chosen": "a", "rejected": "b", "score": None if i % 2 else i / 4}
    for i in range(7)
]


def read(path: Path, split: str = "train") -> list[object]:
    return list(DataSource(str(path), split=split).rows())


def saved(folder: Path, rows: list[dict[str, object]], shards: int = 1) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder, num_shards=shards)
    return folder


def test_a_saved_data_set_gives_the_rows_that_the_library_gives(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", ROWS, shards=3)
    assert read(folder) == list(datasets.load_from_disk(str(folder))) == ROWS
    assert read(folder / "data-00000-of-00003.arrow") == ROWS[:3]
    assert DataSource(str(folder)).passed_over() == []


def test_a_dictionary_of_data_sets_is_read_by_split(tmp_path: Path) -> None:
    parts = {"train": datasets.Dataset.from_list(ROWS[:4]), "test": datasets.Dataset.from_list(ROWS[4:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == ROWS[:4]
    assert read(tmp_path / "saved", "test") == ROWS[4:]
    with pytest.raises(ValueError, match=r"one of \['train', 'test'\], got 'train\[:2\]'"):
        read(tmp_path / "saved", "train[:2]")


def test_a_feather_file_is_read_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.arrow"
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(ROWS), file, compression="uncompressed")
    assert read(file) == ROWS
    file.write_bytes(file.read_bytes()[:-100])
    (error,) = read(file)
    assert isinstance(error, BadRowError)
    assert f"expected a whole file, got {file}" in error.detail


@pytest.mark.parametrize("damage", ["{", "[]", '{"_data_files": [{}]}', '{"_data_files": [{"filename": "gone.arrow"}]}'])
def test_a_damaged_list_of_files_is_named(tmp_path: Path, damage: str) -> None:
    folder = saved(tmp_path / "saved", ROWS)
    (folder / "state.json").write_text(damage)
    with pytest.raises(ValueError, match=r"state\.json"):
        read(folder)


def test_offsets_that_lead_outside_the_file_are_not_followed(tmp_path: Path) -> None:
    """Arrow reads whatever memory a damaged offset points at, unless it is asked to check."""
    folder = saved(tmp_path / "saved", [{"prompt": "x" * 40, "chosen": "a", "rejected": "b"}] * 3)
    (file,) = folder.glob("*.arrow")
    content, offsets = file.read_bytes(), b"".join(number.to_bytes(4, "little") for number in (0, 40, 80, 120))
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, offsets[:8] + (2**30).to_bytes(4, "little") * 2))
    (error,) = read(folder)
    assert isinstance(error, BadRowError)


def test_a_selection_of_rows_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", ROWS)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(ValueError, match="flatten_indices"):
        read(folder)
