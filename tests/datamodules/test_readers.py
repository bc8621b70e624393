from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from datamodules.contracts.records import BadRowError, Fault
from datamodules.sources.readers import DataSource

ROWS: list[dict[str, object]] = [
    {"prompt": "Größe?\n", "chosen": "„ja“", "rejected": "no", "score": 1.5},
    {"prompt": [{"role": "user", "content": "诗"}], "chosen": "春", "rejected": "x\u2028y", "score": None},
]
TEXT_ROWS: list[dict[str, object]] = [ROWS[0], {"prompt": "b", "chosen": "c", "rejected": "x\u2028y", "score": 2.0}]


def as_jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def read(path: Path | str) -> list[object]:
    return list(DataSource(str(path)).rows())


def test_plain_compressed_and_parquet_twins_give_equal_rows(tmp_path: Path) -> None:
    plain, packed = as_jsonl(TEXT_ROWS), tmp_path / "a.parquet"
    (tmp_path / "a.jsonl").write_bytes(plain)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(plain))
    write_parquet(packed, TEXT_ROWS)
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(packed.read_bytes()))
    (tmp_path / "b.parquet.xz").write_bytes(lzma.compress(packed.read_bytes()))
    for file in tmp_path.iterdir():
        assert read(file) == TEXT_ROWS, file
    assert len(list(tmp_path.iterdir())) == 6


def test_messages_survive_jsonl_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS))
    write_parquet(tmp_path / "a.parquet", ROWS[1:])
    assert read(tmp_path / "a.jsonl") == ROWS
    assert read(tmp_path / "a.parquet") == ROWS[1:]


def test_folders_and_patterns_read_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, row in (("b.jsonl", TEXT_ROWS[1]), ("a.jsonl", TEXT_ROWS[0])):
        (tmp_path / name).write_bytes(as_jsonl([row]))
    (tmp_path / "notes.txt").write_text("not data")
    assert read(tmp_path) == TEXT_ROWS
    assert read(f"{tmp_path}/?.jsonl") == TEXT_ROWS
    assert read(f"{tmp_path}/b*") == TEXT_ROWS[1:]


def test_malformed_lines_come_as_errors_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b'{"a": 1}\n\n{"a": 1\n[1, 2]\n\xff\xfe\n{"a": 2}')
    rows = read(file)
    assert rows[0] == {"a": 1}
    assert rows[-1] == {"a": 2}
    errors = [row for row in rows if isinstance(row, BadRowError)]
    assert len(rows) == 5
    assert [error.fault for error in errors] == [Fault.MALFORMED] * 3
    assert "got list" in errors[1].detail


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jsonl.gz", "expected data files at"),
        ("none/*.parquet", "expected data files at"),
        ("notes.txt", "ending in .jsonl"),
    ],
)
def test_paths_that_lead_nowhere_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "notes.txt").write_text("not data")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("damage", [slice(None, -20), slice(20, None)])
def test_a_broken_compressed_file_gives_what_it_holds_and_is_named(
    tmp_path: Path, compress: Callable[[bytes], bytes], damage: slice
) -> None:
    ending = {gzip.compress: "gz", lzma.compress: "xz", bz2.compress: "bz2"}[compress]
    file = tmp_path / f"a.jsonl.{ending}"
    file.write_bytes(compress(as_jsonl(TEXT_ROWS * 50))[damage])
    *rows, last = read(file)
    assert rows == (TEXT_ROWS * 50)[: len(rows)]
    assert isinstance(last, BadRowError)
    assert last.fault is Fault.BROKEN_FILE
    assert f"got {file}, which breaks off after {len(rows)} rows" in last.detail


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected data files at"):
        read(tmp_path)


def test_what_is_neither_file_nor_pattern_is_a_hub_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    (tmp_path / "hub.jsonl").write_bytes(as_jsonl(TEXT_ROWS))
    asked: list[tuple[str, dict[str, object]]] = []

    def load_dataset(path: str, **options: object) -> datasets.Dataset:
        asked.append((path, options))
        return datasets.Dataset.from_json(str(tmp_path / "hub.jsonl"), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = DataSource("Anthropic/hh-rlhf", split="test", data_dir="harmless-base")
    assert list(source.rows()) == TEXT_ROWS
    assert asked == [("Anthropic/hh-rlhf", {"name": None, "data_dir": "harmless-base", "split": "test"})]
    assert len(source.fingerprint()) == 64


def test_the_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(as_jsonl(TEXT_ROWS))
    before = DataSource(str(file)).fingerprint()
    assert DataSource(str(file)).fingerprint() == before
    file.write_bytes(as_jsonl(TEXT_ROWS[:1]))
    assert DataSource(str(file)).fingerprint() != before


def test_files_that_tell_their_number_of_rows_fast(tmp_path: Path) -> None:
    rows = [{"prompt": str(number)} for number in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert DataSource(str(tmp_path)).count() == 10 == len(list(DataSource(str(tmp_path)).rows()))
    (tmp_path / "c.csv").write_text("prompt\n1\n")
    assert DataSource(str(tmp_path)).count() is None
    (tmp_path / "b.parquet").write_bytes(b"damaged")
    assert DataSource(str(tmp_path / "b.parquet")).count() is None
