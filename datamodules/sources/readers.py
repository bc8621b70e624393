"""Rows of a file, a folder of files, or a hub data set."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from datamodules.sources.records import BadRowError, Fault

if TYPE_CHECKING:
    from datasets import Dataset

RawRow = Mapping[str, object] | BadRowError
"""Column name -> cell, or why the row could not be read."""

_OPENERS: Mapping[str, Callable[[Path], IO[bytes]]] = {
    ".gz": lambda path: cast(IO[bytes], gzip.GzipFile(path)),
    ".xz": lambda path: cast(IO[bytes], lzma.LZMAFile(path)),  # noqa: SIM115 (the caller closes it)
}


@dataclass(frozen=True)
class DataSource:
    """Where rows come from: a file, a folder, a glob pattern, or the name of a hub data set.

    Files are JSONL (`.jsonl`), JSON (`.json`: an object, a list of objects, or JSONL), CSV with a header (`.csv`) or Parquet
    (`.parquet`), each plain or with `.gz` or `.xz` after it. A folder stands for all such files in it, in the order of their
    names. What is not on the disk and has no such ending is a hub name.
    """

    path: str
    """File, folder, pattern such as `data/part-*.jsonl.gz`, or hub name such as `Anthropic/hh-rlhf`."""
    split: str = "train"
    """Split of a hub data set; a slice such as `train[:1000]` works."""
    data_dir: str | None = None
    """Folder within a hub data set."""
    config: str | None = None
    """Configuration of a hub data set."""

    def rows(self) -> Iterator[RawRow]:
        """Every row, in order; a line that is not a JSON object comes as the error it is.

        Raises:
            ValueError: if there are no files, or a compressed one is broken.
        """
        files = self.files()
        if not files:
            yield from self._hub_rows()
        for file in files:
            try:
                yield from _READERS[_format_suffix(file)](file)
            except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
                raise ValueError(f"expected a whole compressed file, got {file}: {error}. Fetch it again.") from error

    def fingerprint(self) -> str:
        """Hex digest of the bytes behind the rows."""
        files = self.files() or self._hub_files()
        digest = hashlib.sha256(repr([file.name for file in files]).encode())
        for file in files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def files(self) -> list[Path]:
        """The files on disk, none for a hub name.

        Raises:
            ValueError: if the path looks like files but there are none, or a file is of no known format.
        """
        path = Path(self.path).expanduser()
        if path.is_file():
            _require_known(path)
            return [path]
        if path.is_dir():
            return self._some(sorted(file for file in path.iterdir() if _format_suffix(file) in _READERS))
        if any(character in self.path for character in "*?[") or _format_suffix(path) in _READERS:
            folder = Path(path.anchor) if path.is_absolute() else Path()
            found = sorted(folder.glob(str(path.relative_to(path.anchor))))
            for file in found:
                _require_known(file)
            return self._some(found)
        return []

    def _some(self, files: list[Path]) -> list[Path]:
        if not files:
            raise ValueError(f"expected data files at {self.path!r}, got none. Check the path; known endings: {_known()}.")
        return files

    def _hub_rows(self) -> Iterator[RawRow]:
        yield from self._hub_dataset()

    def _hub_files(self) -> list[Path]:
        return sorted(Path(file["filename"]) for file in self._hub_dataset().cache_files)

    def _hub_dataset(self) -> Dataset:
        from datasets import load_dataset

        return load_dataset(self.path, name=self.config, data_dir=self.data_dir, split=self.split)


def _json_rows(file: Path) -> Iterator[RawRow]:
    with _open(file) as stream:
        for line in stream:
            if line.strip():
                yield _json_row(line)


def _json_row(line: bytes) -> RawRow:
    try:
        row = json.loads(line)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        return BadRowError(Fault.MALFORMED, f"{error}: {line[:60]!r}")
    if not isinstance(row, dict):
        return BadRowError(Fault.MALFORMED, f"expected an object, got {type(row).__name__}: {line[:60]!r}")
    return row


def _json_document_rows(file: Path) -> Iterator[RawRow]:
    """One object or a list of objects; else an object a line, which many call `.json` too."""
    with _open(file) as stream:
        content = stream.read()
    try:
        document = json.loads(content)
    except ValueError:
        yield from (_json_row(line) for line in content.splitlines() if line.strip())
        return
    for row in document if isinstance(document, list) else [document]:
        yield row if isinstance(row, dict) else BadRowError(Fault.MALFORMED, f"expected an object, got {type(row).__name__}")


def _csv_rows(file: Path) -> Iterator[RawRow]:
    with _open(file) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines):
            if None in row or None in row.values():
                yield BadRowError(Fault.MALFORMED, f"expected as many cells as the header has, got {list(row.values())}"[:160])
            else:
                yield row


def _parquet_rows(file: Path) -> Iterator[RawRow]:
    import pyarrow.parquet

    with _open(file) as stream:
        # Parquet is read from its end: seeking in a compressed stream would decompress it again and again.
        seekable = io.BytesIO(stream.read()) if file.suffix in _OPENERS else stream
        for batch in pyarrow.parquet.ParquetFile(seekable).iter_batches():
            yield from batch.to_pylist()


_READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_rows,
    ".json": _json_document_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


def _open(file: Path) -> IO[bytes]:
    return _OPENERS[file.suffix](file) if file.suffix in _OPENERS else file.open("rb")


def _format_suffix(file: Path) -> str:
    """Ending that names the format, below any compression: `.jsonl` for `a.jsonl.xz`."""
    return Path(file.stem).suffix if file.suffix in _OPENERS else file.suffix


def _require_known(file: Path) -> None:
    if _format_suffix(file) not in _READERS:
        raise ValueError(f"expected a data file ending in {_known()}, got {file}. Convert it, or name another file.")


def _known() -> str:
    return ", ".join(_READERS) + f" (each also with {' or '.join(_OPENERS)})"
