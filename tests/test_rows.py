"""The rows of a run: what is kept of a number, how a long file is packed, and what is read after a death at any point of it."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from run_folder import files
from run_folder.files import append_row
from run_folder.rows import ROWS, read_rows, row_names, tracks_of


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    logger = CSVLogger(tmp_path, name="run", version=0)
    return Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run/version_0"


def row(step: int) -> dict[str, object]:
    return {"step": step, "a/value": step / 7, "text": "für alle"}


class Killed(BaseException):
    """Ends whoever is at work."""


def append_all(trainer: Trainer, steps: Iterable[int]) -> None:
    for step in steps:
        append_row(trainer, "a", row(step))


def written(steps: range) -> list[dict[str, object]]:
    return [{"step": step, "a/value": float(f"{step / 7:.8g}"), "text": "für alle"} for step in steps]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ROWS).iterdir())


def test_a_number_keeps_what_float32_has(trainer: Trainer, folder: Path) -> None:
    append_row(trainer, "a", {"step": 3, "third": 1 / 3, "count": 123456789.0, "tiny": 1.23456789e-30, "on": True, "none": None})
    append_row(trainer, "a", {"step": 4, "nan": math.nan, "deep": {"list": [2 / 3, math.inf, (1e9, "x")]}})
    lines = [json.loads(line) for line in (folder / ROWS / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"step": 3, "third": 0.33333333, "count": 123456789.0, "tiny": 1.2345679e-30, "on": True, "none": None},
        {"step": 4, "nan": None, "deep": {"list": [0.66666667, None, [1e9, "x"]]}},
    ]


def test_a_long_file_is_packed_and_read_in_order(trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 400)
    append_all(trainer, range(60))
    append_row(trainer, "a.b", row(1))
    parts = [name for name in names_in(folder) if name.startswith("a.0")]
    assert len(parts) > 3
    assert all(name.endswith(".jsonl.gz") for name in parts), names_in(folder)
    assert read_rows(folder, "a") == written(range(60))
    assert row_names(folder) == ["a", "a.b"]
    assert tracks_of(folder) == {"a/value": [(step, float(f"{step / 7:.8g}")) for step in range(60)]}
    # What other tools see: the shell's order is that of the rows, and every line is a row.
    unpacked = b"".join(gzip.decompress((folder / ROWS / name).read_bytes()) for name in parts)
    assert [json.loads(line)["step"] for line in unpacked.splitlines()] == list(range(len(unpacked.splitlines())))


@pytest.mark.parametrize("dies_in", ["rename", "copyfileobj", "replace", "unlink"])
def test_a_run_that_dies_while_it_packs_keeps_every_row_once(
    trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(files, "PART_BYTES", 400)
    append_all(trainer, range(5))
    with monkeypatch.context() as patched:
        patched.setattr(shutil if dies_in == "copyfileobj" else Path, dies_in, die)
        steps = iter(range(5, 40))
        with pytest.raises(Killed):
            append_all(trainer, steps)
    reached = next(steps)
    assert read_rows(folder, "a") == written(range(reached))
    append_all(trainer, range(reached, reached + 30))
    assert read_rows(folder, "a") == written(range(reached + 30))


def test_a_damaged_part_is_named_and_the_others_are_read(trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PART_BYTES", 400)
    append_all(trainer, range(30))
    second = folder / ROWS / "a.0002.jsonl.gz"
    lost = {json.loads(line)["step"] for line in gzip.decompress(second.read_bytes()).splitlines()}
    second.write_bytes(second.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"a\.0002\.jsonl\.gz is left out: expected rows packed by gzip"):
        rows = read_rows(folder, "a")
    assert [found["step"] for found in rows] == [step for step in range(30) if step not in lost]


def test_the_rows_of_an_older_run_are_read(folder: Path) -> None:
    (folder / ROWS).mkdir(parents=True)
    (folder / ROWS / "a.jsonl").write_text('{"step": 1, "a/value": 0.14285714285714285}\n', encoding="utf-8")
    assert tracks_of(folder) == {"a/value": [(1, 0.14285714285714285)]}
