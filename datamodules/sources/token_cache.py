"""Caches tokenised sources on disk, keyed by everything that the tokens depend on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.cache import prune
from datamodules.sources.row_report import RowReport
from datamodules.sources.store import ExampleStore

_REPORT, _DIGESTS = "report.json", "sha256.json"


class TokenCache:
    """A folder of stores with their reports.

    An entry is written under a name of its own and renamed when it is whole, so that a killed process leaves no half entry
    and two processes at once cannot harm each other: the second one takes what the first one wrote. An entry whose bytes are no
    longer those that were written is named and made anew. A new entry puts out old ones that exceed the cache's limit.

    Args:
        folder: made when missing; within the folder of all caches.
    """

    def __init__(self, folder: Path) -> None:
        if "\0" in str(folder):
            raise ValueError(f"expected a folder for cached tokens, got {str(folder)!r}. Set cache_dir.")
        self._folder = folder

    def get(self, key: object, prepare: Callable[[], tuple[ExampleStore, RowReport]]) -> tuple[ExampleStore, RowReport]:
        """The entry for `key`, mapped from disk; prepared first if there is none.

        Args:
            key: anything whose `repr` says all that the entry depends on.
            prepare: makes the entry.

        Raises:
            ValueError: if the entry cannot be written.
        """
        entry = self._folder / hashlib.sha256(repr(key).encode()).hexdigest()[:32]
        if entry.is_dir() and (damage := _damage(entry)) is not None:
            rank_zero_warn(f"The cached tokens in {entry} are damaged ({damage}): they are made anew.")
            self._remove(entry)
        if not entry.is_dir():
            self._write(entry, *prepare())
            prune(self._folder.parent)
        os.utime(entry)
        return ExampleStore.load(entry), RowReport.load(entry / _REPORT)

    def scratch(self) -> Path:
        """A folder on the cache's disk for what is not yet an entry, made when missing.

        Raises:
            ValueError: if it cannot be made.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"expected a folder for cached tokens, got {self._folder}: {error}. Set cache_dir.") from error
        return self._folder

    def _write(self, entry: Path, store: ExampleStore, report: RowReport) -> None:
        temporary = self._beside(entry)
        try:
            temporary.mkdir(parents=True)
            store.save(temporary)
            report.save(temporary / _REPORT)
            (temporary / _DIGESTS).write_text(json.dumps({file.name: _digest(file) for file in sorted(temporary.iterdir())}))
            temporary.rename(entry)
        except OSError as error:
            # Renaming onto a folder that is not empty fails: another process was first, with the same content.
            if not entry.is_dir():
                raise ValueError(
                    f"expected to write cached tokens into {entry}, got: {error}. Make room (`python -m datamodules.cache` shows "
                    "what is kept, and clears it), or set cache_dir to another disk."
                ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _remove(self, entry: Path) -> None:
        # Renamed first: a process that reads it keeps its open files, and no other finds half of it.
        aside = self._beside(entry)
        try:
            entry.rename(aside)
        except OSError:
            return  # another process was first
        shutil.rmtree(aside, ignore_errors=True)

    def _beside(self, entry: Path) -> Path:
        return entry.with_name(f"{entry.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def _damage(entry: Path) -> str | None:
    """What is wrong with an entry; None if its files have the bytes that were written."""
    try:
        digests = json.loads((entry / _DIGESTS).read_bytes())
        wrong = [name for name, digest in digests.items() if _digest(entry / name) != digest]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"other bytes than were written in {', '.join(wrong)}" if wrong else None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
