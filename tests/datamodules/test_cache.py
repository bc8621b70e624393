from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from datamodules.cache import entries, main, prune
from datamodules.sources import token_cache
from tests.datamodules.test_token_cache import make_entry

DAY = 24 * 60 * 60


def fill(folder: Path, *kept: tuple[str, int, float]) -> None:
    """(kind/name, bytes, days since its last use); tokens are folders, the others files."""
    for name, size, days in kept:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "tokens":
            path.mkdir()
            (path / "tokens.bin").write_bytes(bytes(size))
        else:
            path.write_bytes(bytes(size))
        os.utime(path, (time.time() - days * DAY,) * 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path, ("tokens/old", 400, 9), ("reference/older", 300, 12), ("tokens/new", 500, 0.5), ("gguf/oldest", 900, 99))
    return tmp_path


def names(folder: Path) -> list[str]:
    return [entry.path.name for entry in entries(folder)]


def test_the_longest_unused_go_first_and_only_as_many_as_must(folder: Path) -> None:
    assert names(folder) == ["oldest", "older", "old", "new"]
    assert [entry.path.name for entry in prune(folder, limit=1000)] == ["older"]
    assert names(folder) == ["oldest", "old", "new"]
    assert prune(folder, limit=900) == []


def test_what_was_used_today_stays_however_small_the_limit(folder: Path) -> None:
    prune(folder, limit=0)
    assert names(folder) == ["oldest", "new"]


def test_the_command_looks_and_clears(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cache-dir", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "4 entries" in said
    assert "tokens: 2 entries" in said
    assert "32 GiB are kept at the most" in said
    assert main(["clear", "--kind", "tokens", "--unused-days", "3", "--cache-dir", str(folder)]) == 0
    assert names(folder) == ["oldest", "older", "new"]
    assert main(["clear", "--cache-dir", str(folder)]) == 0
    assert names(folder) == []
    assert main(["--cache-dir", str(folder / "missing")]) == 0


def test_a_new_entry_puts_out_what_exceeds_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "prune", partial(prune, limit=1000))
    token_cache.TokenCache(folder / "tokens").get("key", make_entry)
    assert len(names(folder)) == 3
    assert {"oldest", "new"} <= set(names(folder))
