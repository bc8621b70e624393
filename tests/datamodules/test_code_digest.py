"""A format that does something else has another digest, and gets other tokens from the cache."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from typing_extensions import override

from datamodules.contracts.records import Record
from datamodules.formats.columns import ChosenOnly, PairColumns, Row, RowFormat, pair_record
from datamodules.preference import PreferenceDataModule
from datamodules.sources.code_digest import code_digest
from datamodules.sources.readers import DataSource


def swapping(better: str, worse: str) -> RowFormat:
    """Formats of one name, one `repr` and one bytecode: they differ in what their method closes over."""

    @dataclass(frozen=True)
    class Swapped(RowFormat):
        @override
        def parse(self, row: Row, row_number: int) -> Record:
            return pair_record(str(row["q"]), str(row[better]), str(row["q"]), str(row[worse]), row_number)

    return Swapped()


def test_an_edited_format_gets_its_own_tokens(tmp_path: Path, tokenizer_folder: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"q": f"q{i}", "a": f"good {i}", "b": f"bad {i}"}) + "\n" for i in range(6)))

    def chosen(format: RowFormat) -> str:
        data = PreferenceDataModule(
            str(tokenizer_folder), DataSource(str(file)), format, val_fraction=0, cache_dir=str(tmp_path / "cache"), batch_size=2
        )
        data.setup("fit")
        return str(data.tokenizer.decode(list(data.dataset("train").examples[0].completions[0].token_ids)))

    assert chosen(swapping("a", "b")).startswith("good 0")
    assert chosen(swapping("b", "a")).startswith("bad 0")
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2
    assert chosen(swapping("a", "b")).startswith("good 0")
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2


MODULE = """
from dataclasses import dataclass
import re
import {name}_rules
from datamodules.formats.columns import RowFormat

MARK = re.compile({pattern!r})
def clean(text): return MARK.sub("", text){clean}
class Base(RowFormat):
    def cell(self, row): return clean(row["q"]){cell}
@dataclass(frozen=True)
class Rows(Base):
    def parse(self, row, row_number, *, mark={default!r}): return {name}_rules.apply(self.cell(row), mark)
"""
PLAIN = {"pattern": "x" * 300, "clean": "", "cell": "", "default": "a", "rules": ""}


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, **changes: str) -> ModuleType:
    parts = PLAIN | changes
    (folder / f"{name}.py").write_text(MODULE.format(name=name, **{key: parts[key] for key in parts if key != "rules"}))
    (folder / f"{name}_rules.py").write_text(f"def apply(text, mark): return text + mark{parts['rules']}\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    for module in (f"{name}_rules", name):
        sys.modules.pop(module, None)
    return importlib.import_module(name)


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "x" * 299 + "y"},
        {"clean": ".strip()"},
        {"cell": " + '!'"},
        {"default": "b"},
        {"rules": " + mark"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_format_runs_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    digests = [
        code_digest(load(folder, monkeypatch, "edited_format", **parts).Rows())
        for folder, parts in zip(folders, ({}, change, {}), strict=True)
    ]
    assert digests[0] == digests[2] != digests[1]


def test_fields_formats_within_formats_and_partials_count() -> None:
    def apart(first: object, second: object) -> bool:
        return code_digest(first) != code_digest(second)

    assert not apart(PairColumns(), PairColumns())
    assert apart(PairColumns(), PairColumns(chosen="other"))
    assert apart(ChosenOnly(PairColumns()), ChosenOnly(PairColumns(as_chat=True)))
    assert apart(partial(swapping, "a"), partial(swapping, "b"))
    assert apart(re.compile("a" * 300), re.compile("a" * 299 + "b"))
    assert not apart({"b": 1, "a": {"y", "x"}}, {"a": {"x", "y"}, "b": 1})


def test_what_refers_to_itself_ends() -> None:
    loop: list[object] = []
    loop.append(loop)

    def again(count: int) -> Callable[[int], object]:
        return again if count else len  # type: ignore[return-value]

    assert code_digest(loop) != code_digest(again)


@pytest.mark.slow
def test_two_processes_agree_whatever_their_hash_seed() -> None:
    imports = "from datamodules.formats.columns import PairColumns; from datamodules.sources.code_digest import code_digest"
    code = f"{imports}; print(code_digest(PairColumns()))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert digests.pop().strip() == code_digest(PairColumns())
