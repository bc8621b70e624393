"""Decompresses files with a bound on the memory of one line: 2 MB of gzip can be a line of 2 GB."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from datamodules.contracts.records import BadRowError, Fault

MAX_ROW_BYTES = 2**26
"""Longest row that is read (64 MiB)."""
MAX_DOCUMENT_BYTES = 2**30
"""Longest file that is read whole, once decompressed (1 GiB): a JSON document, a compressed Parquet file."""


def _zst(path: Path) -> IO[bytes]:
    import pyarrow

    raw = pyarrow.input_stream(str(path), compression="zstd")
    stream: IO[bytes] = io.BufferedReader(raw)
    return stream


# Their classes read bytes like any file, and only some say so to a type checker.
OPENERS: Mapping[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile, ".bz2": bz2.BZ2File, ".zst": _zst}
"""Ending -> how such a file is decompressed."""


def open_bytes(file: Path) -> IO[bytes]:
    """The content of a file, decompressed as its ending says.

    A compressed file is gone through once before: what comes before a wrong checksum may be as wrong as what comes after it. One
    that merely ends too early is right as far as it goes.

    Raises:
        Exception: the decompressor's own, if the checksums are not those of the content.
    """
    if file.suffix not in OPENERS:
        return file.open("rb")
    with contextlib.suppress(EOFError), OPENERS[file.suffix](file) as stream:
        while stream.read(2**20):
            pass
    content: IO[bytes] = OPENERS[file.suffix](file)
    return content


def format_suffix(file: Path) -> str:
    """Ending that names the format, below any compression: `.jsonl` for `a.jsonl.xz`."""
    return Path(file.stem).suffix if file.suffix in OPENERS else file.suffix


def bounded_lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Every line; None for one that is longer than `MAX_ROW_BYTES`, which is passed over piece by piece."""
    while line := stream.readline(MAX_ROW_BYTES + 1):
        if len(line) <= MAX_ROW_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(2**20)
        yield None


def bounded_text(text: io.TextIOBase) -> Iterator[str]:
    """Every line of a text.

    Raises:
        BadRowError: if one has more than `MAX_ROW_BYTES` characters.
    """
    while line := text.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            raise BadRowError(Fault.TOO_LONG, f"a line has more than {MAX_ROW_BYTES} characters")
        yield line


def whole_content(stream: IO[bytes], advice: str) -> bytes:
    """Everything that is left of a stream.

    Args:
        stream: to be read to its end.
        advice: what to do instead, for the error.

    Raises:
        BadRowError: if it is more than `MAX_DOCUMENT_BYTES`.
    """
    content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise BadRowError(Fault.TOO_LONG, f"the file has more than {MAX_DOCUMENT_BYTES} bytes once decompressed. {advice}")
    return content
