"""Reads, writes and appends to response pools on disk."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datamodules.pool.schema import PoolRow, parse_row, row_to_json
from datamodules.sources.parsed_rows import parsed_rows
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport

_COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    # A fixed time stamp: the same rows give the same bytes.
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".xz": lambda content: lzma.compress(content, preset=9 | lzma.PRESET_EXTREME),
}


def read_pool(path: str | Path) -> tuple[dict[int, PoolRow], RowReport]:
    """`{row number: row}` of a pool (JSONL or Parquet, plain or compressed), and a report that counts the bad rows left out."""
    source = DataSource(str(path))
    report = RowReport(str(path), passed_over=source.passed_over())
    rows = dict(parsed_rows(source, report, lambda row, _: parse_row(row)))
    report.rows_kept = len(rows)
    return rows, report


def write_pool(path: str | Path, rows: Sequence[PoolRow]) -> None:
    """Write a whole pool in the format that the ending of `path` names; it is there complete or not at all.

    Raises:
        ValueError: if the ending is unknown, or Parquet is asked for prompts of text and of messages in one file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        _write(temporary, path, [row_to_json(row) for row in rows])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(temporary: Path, path: Path, rows: Sequence[dict[str, Any]]) -> None:
    is_compressed = path.suffix in _COMPRESSIONS
    if path.suffix == ".parquet":
        _write_parquet(temporary, rows)
    elif (Path(path.stem) if is_compressed else path).suffix == ".jsonl":
        content = b"".join(map(_line, rows))
        temporary.write_bytes(_COMPRESSIONS[path.suffix](content) if is_compressed else content)
    else:
        raise ValueError(f"expected a pool ending in .jsonl, .jsonl.gz, .jsonl.xz or .parquet, got {path.name!r}.")


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    text = pa.string()
    message = pa.struct({"role": text, "content": text})
    kinds = {type(row["prompt"]) for row in rows}
    if len(kinds) > 1:
        raise ValueError("expected prompts that are all text or all chat messages for Parquet, got both. Write JSONL instead.")
    sampling = pa.struct({"temperature": pa.float64(), "top_p": pa.float64(), "max_new_tokens": pa.int64()})
    response = pa.struct(
        {"text": text, "source": text, "score": pa.float64(), "judge": text, "judge_version": text, "model": text}
        | {"sampling": sampling, "seed": pa.int64(), "is_cut": pa.bool_()}
    )
    prompt = pa.list_(message) if kinds == {list} else text
    schema = pa.schema({"prompt": prompt, "answer": text, "task": text, "responses": pa.list_(response)})
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


class PoolAppender:
    """Appends rows to a JSONL pool so that a killed run loses at most the batch in hand.

    A batch is written with one call and forced to disk. What a killed run left of a batch is a last line without its end:
    it is cut off when the file is opened again, so that its prompt is sampled again.

    Args:
        path: ends in `.jsonl`; made when missing.

    The file is locked until `close`, or until this object goes: a second process that sampled for it would write every prompt
    twice.

    Raises:
        ValueError: if the path has another ending, another process appends to it, or the file holds bad rows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix != ".jsonl":
            raise ValueError(f"expected a plain .jsonl file to append to, got {self.path}. Compress it afterwards with pool merge.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One lock a process. The system gives it back when the process ends, however it ends.
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), blocking=False, is_singleton=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"expected no other process to append to {self.path}, got one that does. Wait for it, or write to "
                "another file and join the two with `python -m datamodules.pool merge`."
            ) from error
        self.path.touch()
        _cut_unfinished_line(self.path)
        rows, report = read_pool(self.path)
        report.require_clean()
        self.rows = list(rows.values())
        """What is in the file."""

    def append(self, rows: Iterable[PoolRow]) -> None:
        """Write a batch; when this returns it is on disk."""
        batch = list(rows)
        with self.path.open("ab") as stream:
            stream.write(b"".join(_line(row_to_json(row)) for row in batch))
            stream.flush()
            os.fsync(stream.fileno())
        self.rows += batch

    def close(self) -> None:
        """Let others append."""
        self._lock.release()


def _cut_unfinished_line(path: Path) -> None:
    with path.open("rb+") as stream:
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
