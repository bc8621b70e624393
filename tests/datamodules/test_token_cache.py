from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore
from datamodules.sources.token_cache import TokenCache

# Python 3.12 warns of every fork of a process with threads, which torch's own data workers are.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make_entry() -> tuple[ExampleStore, RowReport]:
    examples = [Example((i, 1), (TokenizedCompletion(tuple(range(i + 1)), Role.CHOSEN, "chosen"),), i) for i in range(200)]
    return ExampleStore.of(examples), RowReport("here", rows_read=200, rows_kept=200)


def forbidden() -> tuple[ExampleStore, RowReport]:
    raise AssertionError("the entry is there")


def race(folder: Path, barrier: Barrier, results: multiprocessing.Queue[tuple[str, int]]) -> None:
    def prepare() -> tuple[ExampleStore, RowReport]:
        entry = make_entry()
        barrier.wait(30)
        return entry

    store, report = TokenCache(folder).get("key", prepare)
    results.put((store.fingerprint(), report.rows_kept))


def test_an_entry_is_prepared_once_for_a_key(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    first, _ = cache.get(("key", 1), make_entry)
    again, report = cache.get(("key", 1), forbidden)
    assert list(again) == list(first) == list(make_entry()[0])
    assert report == make_entry()[1]
    with pytest.raises(AssertionError, match="the entry is there"):
        cache.get(("key", 2), forbidden)


def test_processes_that_write_at_once_agree_and_leave_one_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=race, args=(tmp_path, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    outcomes = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert outcomes == {(make_entry()[0].fingerprint(), 200)}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_preparation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> tuple[ExampleStore, RowReport]:
        raise ValueError("bad rows")

    with pytest.raises(ValueError, match="bad rows"):
        TokenCache(tmp_path).get("key", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tokens.bin", "tables.npz", "names.json", "report.json", "sha256.json"])
@pytest.mark.parametrize("damage", ["zeroed", "cut", "gone"])
def test_a_damaged_entry_is_named_and_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    cache = TokenCache(tmp_path)
    cache.get("key", make_entry)
    (entry,) = tmp_path.iterdir()
    file = entry / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-40] + (bytes(40) if damage == "zeroed" else b""))
    with pytest.warns(UserWarning, match=f"{entry.name} are damaged"):
        store, report = cache.get("key", make_entry)
    assert list(store) == list(make_entry()[0])
    assert report == make_entry()[1]
    assert cache.get("key", forbidden)[0].fingerprint() == store.fingerprint()
    assert list(tmp_path.iterdir()) == [entry]


def test_a_cache_that_cannot_be_written_says_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"expected to write cached tokens into .*datamodules\.cache"):
        TokenCache(tmp_path / "file" / "tokens").get("key", make_entry)


def test_what_a_killed_writer_left_is_not_taken_for_an_entry(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    store, _ = cache.get("key", make_entry)
    (entry,) = tmp_path.iterdir()
    entry.rename(entry.with_name(f"{entry.name}.1.0.tmp"))
    (tmp_path / f"{entry.name}.1.0.tmp" / "tables.npz").write_bytes(b"half")
    assert cache.get("key", make_entry)[0].fingerprint() == store.fingerprint()
