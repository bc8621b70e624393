"""Tokenised sources on disk, keyed by everything they depend on, so that a source is tokenised once."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore

# Part of every key: raise it when the same text would give other tokens or other files.
_VERSION = 2

_REPORT = "report.json"


class TokenCache:
    """A folder of stores with their reports.

    An entry is written under a name of its own and renamed when it is whole, so that a killed process leaves no half entry
    and two processes at once cannot harm each other: the second one takes what the first one wrote.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: object, prepare: Callable[[], tuple[ExampleStore, RowReport]]) -> tuple[ExampleStore, RowReport]:
        """The entry for `key`, mapped from disk; prepared first if there is none.

        Args:
            key: anything whose `repr` says all that the entry depends on.
            prepare: makes the entry.
        """
        entry = self._folder / hashlib.sha256(repr((_VERSION, key)).encode()).hexdigest()[:32]
        if not entry.is_dir():
            self._write(entry, *prepare())
        return ExampleStore.load(entry), RowReport.load(entry / _REPORT)

    def _write(self, entry: Path, store: ExampleStore, report: RowReport) -> None:
        temporary = entry.with_name(f"{entry.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir(parents=True)
        try:
            store.save(temporary)
            report.save(temporary / _REPORT)
            temporary.rename(entry)
        except OSError:
            # Renaming onto a folder that is not empty fails: another process was first, with the same content.
            if not entry.is_dir():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
