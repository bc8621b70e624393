"""Stores verdicts on disk as they arrive, so that no response is paid for twice."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from judges.base import Verdict

_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, version TEXT NOT NULL, score REAL NOT NULL, reason TEXT NOT NULL, cost REAL NOT NULL,
    details TEXT NOT NULL, created REAL NOT NULL
)
"""


class VerdictCache:
    """A table of verdicts in one SQLite file, shared by any number of processes; each verdict is on disk when `put` returns.

    Args:
        path: The file, made with its folders if need be; None keeps the verdicts in memory, for this object's life only.

    Raises:
        ValueError: if the file is no such table, or damaged.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        # The write-ahead log lets processes read while one writes; a killed program leaves at most an unfinished, ignored entry.
        # One thread uses it at a time, though not always the one that opened it.
        self._connection = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ValueError(
                f"expected a cache of verdicts at {path}, got: {error}. Move the file away: its verdicts are then asked for again."
            ) from error

    def get(self, key: str) -> Verdict | None:
        """The verdict stored under a key, at no cost now; None if there is none."""
        with closing(self._connection.execute("SELECT score, reason, details FROM verdicts WHERE key = ?", (key,))) as rows:
            row = rows.fetchone()
        return Verdict(row[0], row[1], 0.0, json.loads(row[2])) if row else None

    def count(self) -> int:
        """How many verdicts are stored."""
        with closing(self._connection.execute("SELECT COUNT(*) FROM verdicts")) as rows:
            return int(rows.fetchone()[0])

    def put(self, key: str, verdict: Verdict, judge: str, version: str) -> None:
        """Store a verdict with who gave it; a key that is taken keeps its verdict."""
        row = (key, judge, version, verdict.score, verdict.reason, verdict.cost, json.dumps(dict(verdict.details)), time.time())
        self._connection.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
