"""Reads the rows of a file, a folder of files, or a hub data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from datamodules.sources.file_rows import READERS, RawRow, file_rows, quick_count
from datamodules.sources.hub import HubSet
from datamodules.sources.saved_dataset import saved_dataset_files
from datamodules.sources.streams import OPENERS, format_suffix


@dataclass(frozen=True)
class DataSource:
    """Where rows come from: a file, a folder, a glob pattern, or the name of a hub data set.

    Files are JSONL (`.jsonl`), JSON (`.json`: an object, a list of objects, or JSONL), CSV or TSV with a header (`.csv`,
    `.tsv`), Parquet (`.parquet`) or Arrow (`.arrow`), each plain or with `.gz`, `.xz`, `.bz2` or `.zst` after it. A folder stands
    for all such files in it, in the order of their names, or for the data set that `Dataset.save_to_disk` wrote there. What is
    not on the disk and has no such ending is a hub name.
    """

    endings: ClassVar[Sequence[str]] = tuple(READERS)
    """Endings of a file that may be named."""

    path: str
    """File, folder, pattern such as `data/part-*.jsonl.gz`, or hub name such as `Anthropic/hh-rlhf`."""
    split: str = "train"
    """Split of a hub data set, where a slice such as `train[:1000]` works, or of a saved dictionary of data sets."""
    data_dir: str | None = None
    """Folder within a hub data set."""
    config: str | None = None
    """Configuration of a hub data set."""

    revision: str | None = None
    """Commit of a hub data set; its newest by default, which may change under a run. Null where another hub name is given."""
    streaming: bool = False
    """Read a hub data set row by row, without a copy of it on the disk; its tokens are kept. Files are read so anyway."""

    def rows(self) -> Iterator[RawRow]:
        """Every row, in order; what cannot be read comes as the error it is.

        Raises:
            ValueError: if there are no files, or no such hub data set.
        """
        for _, rows in self.parts():
            yield from rows

    def parts(self) -> Iterator[tuple[str, Iterable[RawRow]]]:
        """(name, rows) of each file; a single source has no name of its own."""
        files = self.files()
        if not files:
            yield "", self._hub.rows()
        for file in files:
            yield file.name if len(files) > 1 else "", file_rows(file)

    def count(self) -> int | None:
        """Rows, where the files tell it fast: lines of plain JSONL, the number that Parquet states. None for others."""
        try:
            counts = [quick_count(file) for file in self.files()]
        except Exception:  # a file that cannot be read says so when it is
            return None
        known = [count for count in counts if count is not None]
        return sum(known) if counts and len(known) == len(counts) else None

    def fingerprint(self) -> str:
        """Hex digest of the bytes behind the rows."""
        files = self.files()
        if not files:
            return self._hub.fingerprint()
        digest = hashlib.sha256(repr([file.name for file in files]).encode())
        for file in files:
            try:
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise ValueError(f"expected a file that can be read, got {file}: {error}.") from error
        return digest.hexdigest()

    def files(self) -> list[Path]:
        """The files on disk, none for a hub name.

        Raises:
            ValueError: if the path looks like files but there are none, or a file is of no known format.
        """
        try:
            return self._found()
        except (OSError, RuntimeError, NotImplementedError) as error:  # too long a name, no such user's home, no such pattern
            raise ValueError(f"expected a path that can be looked up, got {self.path[:200]!r}: {error}.") from error

    def passed_over(self) -> list[str]:
        """Names of what a folder holds beside its data files, which is not read."""
        files = self.files()
        folder = Path(self.path).expanduser()
        if not files or not folder.is_dir() or saved_dataset_files(folder, self.split) is not None:
            return []
        known = {file.name for file in files}
        return sorted(entry.name for entry in folder.iterdir() if entry.name not in known and not entry.name.startswith("."))

    def _found(self) -> list[Path]:
        if not self.path.strip() or "\0" in self.path:
            raise ValueError(f"expected a file, a folder, a pattern or a hub name, got {self.path!r}. Set `path`.")
        path = Path(self.path).expanduser()
        if path.is_file():
            self._require_known(path)
            return [path]
        if path.is_dir():
            saved = saved_dataset_files(path, self.split)
            return self._some(
                saved if saved is not None else sorted(file for file in path.iterdir() if format_suffix(file) in READERS)
            )
        if any(character in self.path for character in "*?[") or format_suffix(path) in self.endings:
            folder = Path(path.anchor) if path.is_absolute() else Path()
            found = sorted(folder.glob(str(path.relative_to(path.anchor))))
            for file in found:
                self._require_known(file)
            return self._some(found)
        return []

    def _some(self, files: list[Path]) -> list[Path]:
        if not files:
            raise ValueError(f"expected data files at {self.path!r}, got none. Check the path; known endings: {self._known()}.")
        return files

    def _require_known(self, file: Path) -> None:
        if format_suffix(file) not in self.endings:
            raise ValueError(f"expected a data file ending in {self._known()}, got {file}. Convert it, or name another file.")

    def _known(self) -> str:
        return ", ".join(self.endings) + f" (each also with {', '.join(OPENERS)})"

    @cached_property
    def _hub(self) -> HubSet:
        return HubSet(self.path, self.config, self.data_dir, self.split, self.revision, self.streaming)
