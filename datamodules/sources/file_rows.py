"""Reads the rows of one file. A line that cannot be parsed becomes a row with an error that names the file and the line."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.contracts.records import BadRowError, Fault
from datamodules.sources.streams import (
    MAX_ROW_BYTES,
    OPENERS,
    bounded_lines,
    bounded_text,
    format_suffix,
    open_bytes,
    whole_content,
)

if TYPE_CHECKING:
    import pyarrow as pa

RawRow = Mapping[str, object] | BadRowError
"""Column name -> cell, or why the row could not be read."""


def file_rows(file: Path) -> Iterator[RawRow]:
    """Every row of a file, in order; where the file cannot be read on, a last row says so.

    Args:
        file: ends as one of `NAMED_READERS` says.
    """
    number = 0
    try:
        for row in NAMED_READERS[format_suffix(file)](file):
            yield row
            number += 1
    except BadRowError as error:
        yield BadRowError(error.fault, f"{file}, after {number} rows: {error.detail}")
    except Exception as error:  # the exceptions of five parsers and four decompressors have no class in common
        reason = f"{type(error).__name__}: {error}"[:300]
        yield BadRowError(
            Fault.BROKEN_FILE, f"expected a whole file, got {file}, which breaks off after {number} rows: {reason}. Fetch it again."
        )


def quick_count(file: Path) -> int | None:
    """Rows of a plain JSONL or Parquet file; None for others, which would have to be read."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.read_metadata(file).num_rows)
    if file.suffix != ".jsonl":
        return None
    with file.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(partial(stream.read, 2**20), b""))


def _json_rows(file: Path) -> Iterator[RawRow]:
    with open_bytes(file) as stream:
        yield from _json_lines(file, bounded_lines(stream))


def _json_lines(file: Path, lines: Iterable[bytes | None]) -> Iterator[RawRow]:
    for number, line in enumerate(lines, start=1):
        place = f"{file.name} line {number}"
        if line is None:
            yield BadRowError(Fault.TOO_LONG, f"{place} has more than {MAX_ROW_BYTES} bytes")
        elif number == 1 and not json.detect_encoding(line).startswith("utf-8"):
            raise BadRowError(Fault.BROKEN_FILE, _encoding_words(json.detect_encoding(line)))
        elif line.strip():
            yield _json_row(line, place)


def _json_row(line: bytes, place: str) -> RawRow:
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        return BadRowError(Fault.MALFORMED, f"{place}: {error}: {line[:60]!r}")
    return row if isinstance(row, dict | BadRowError) else BadRowError(Fault.MALFORMED, f"{place}: {_not_object(row)}")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object] | BadRowError:
    """The object, or that it names a key twice, which JSON libraries pass over in silence."""
    row = dict(pairs)
    return row if len(row) == len(pairs) else BadRowError(Fault.MALFORMED, f"{_twice([key for key, _ in pairs])}")


def _json_document_rows(file: Path) -> Iterator[RawRow]:
    """One object or a list of objects; else an object a line, which many call `.json` too."""
    with open_bytes(file) as stream:
        lines = bounded_lines(stream)
        first = next(lines, b"")
        if first is not None and isinstance(_json_row(first, ""), dict):
            yield from _json_lines(file, _chained(first, lines))
            return
        yield from _document_rows(file, (first or b"") + whole_content(stream, "Write it as JSONL, an object a line."))


def _chained(first: bytes, others: Iterable[bytes | None]) -> Iterator[bytes | None]:
    yield first
    yield from others


def _document_rows(file: Path, content: bytes) -> Iterator[RawRow]:
    try:
        document = json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        yield from _json_lines(file, content.splitlines())
        return
    for row in document if isinstance(document, list) else [document]:
        yield row if isinstance(row, dict | BadRowError) else BadRowError(Fault.MALFORMED, f"{file.name}: {_not_object(row)}")


def _csv_rows(file: Path, delimiter: str) -> Iterator[RawRow]:
    # The limit is one of the whole process; the default refuses cells of 131,073 characters.
    csv.field_size_limit(MAX_ROW_BYTES)
    # Bytes that are no UTF-8 become half surrogate pairs: bad text in their own row, not the end of the file.
    with open_bytes(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
        lines = csv.reader(bounded_text(text), delimiter=delimiter, strict=True)
        header = next(lines, [])
        if any("\0" in name or name.startswith(("\udcff\udcfe", "\udcfe\udcff")) for name in header):
            raise BadRowError(Fault.BROKEN_FILE, _encoding_words("UTF-16"))
        _require_distinct([name for name in header if name])
        while True:
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                if "field limit" in str(error):
                    # The next line would begin within the cell.
                    raise BadRowError(Fault.TOO_LONG, f"line {lines.line_num}: {error}") from error
                yield BadRowError(Fault.MALFORMED_CELLS, f"{file.name} line {lines.line_num}: {error}")
            else:
                if cells:
                    yield _csv_row(header, cells, f"{file.name} line {lines.line_num}")


def _csv_row(header: list[str], cells: list[str], place: str) -> RawRow:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    shown = [cell[:20] for cell in cells[:8]]
    return BadRowError(
        Fault.MALFORMED_CELLS, f"{place}: expected as many cells as the header has, {len(header)}, got {len(cells)}: {shown}"
    )


def _parquet_rows(file: Path) -> Iterator[RawRow]:
    import pyarrow.parquet

    with open_bytes(file) as stream:
        # Parquet is read from its end: seeking in a compressed stream would decompress it again and again.
        content = whole_content(stream, "Decompress it.") if file.suffix in OPENERS else None
        seekable = stream if content is None else io.BytesIO(content)
        table = pyarrow.parquet.ParquetFile(seekable)
        yield from _batch_rows(table.schema_arrow, table.iter_batches(), file)


def _arrow_rows(file: Path) -> Iterator[RawRow]:
    """Both layouts of Arrow's own format: the stream, which `Dataset.save_to_disk` writes, and the file (Feather)."""
    import pyarrow as pa

    with open_bytes(file) as stream:
        content = (
            pa.py_buffer(whole_content(stream, "Decompress it."))
            if file.suffix in OPENERS
            else pa.memory_map(str(file)).read_buffer()
        )
        if content.size >= len(_FEATHER) and content.slice(0, len(_FEATHER)).to_pybytes() == _FEATHER:
            layout = pa.ipc.open_file(content)
            batches: Iterable[pa.RecordBatch] = (layout.get_batch(number) for number in range(layout.num_record_batches))
        else:
            layout = batches = pa.ipc.open_stream(content)
        yield from _batch_rows(layout.schema, batches, file)


def _batch_rows(schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: Path) -> Iterator[RawRow]:
    _require_distinct(schema.names)
    for batch in batches:
        # Arrow trusts the offsets in a file; damaged ones would read another's memory.
        batch.validate(full=True)
        try:
            yield from batch.to_pylist()
        except Exception:  # Python has no form of some cell, such as a date after the year 9999
            yield from (_arrow_row(batch.slice(number, 1), file) for number in range(batch.num_rows))


def _arrow_row(row: pa.RecordBatch, file: Path) -> RawRow:
    try:
        first: Mapping[str, object] = row.to_pylist()[0]
        return first
    except Exception as error:
        return BadRowError(Fault.MALFORMED_CELLS, f"{file.name}: {type(error).__name__}: {error}")


def _text_rows(file: Path) -> Iterator[RawRow]:
    """A prompt a line, without the blanks around it; empty lines are none."""
    with open_bytes(file) as stream:
        for number, line in enumerate(bounded_lines(stream), start=1):
            if line is None:
                yield BadRowError(Fault.TOO_LONG, f"{file.name} line {number} has more than {MAX_ROW_BYTES} bytes")
                continue
            # Bytes that are no UTF-8 become half surrogate pairs: bad text in their own row.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape").strip()
            if text:
                yield {"prompt": text}


_FEATHER = b"ARROW1"

READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_rows,
    ".json": _json_document_rows,
    ".csv": partial(_csv_rows, delimiter=","),
    ".tsv": partial(_csv_rows, delimiter="\t"),
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
"""Ending of the format -> its rows."""

NAMED_READERS: Mapping[str, Callable[[Path], Iterator[RawRow]]] = {**READERS, ".txt": _text_rows}
"""The same, and plain text, which is prompts where a task's file is named, and a note in a folder of data."""


def _require_distinct(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise BadRowError(Fault.BROKEN_FILE, _twice(names))


def _twice(names: Sequence[str]) -> str:
    return f"{Counter(names).most_common(1)[0][0]!r} stands twice among the names of its fields"


def _not_object(row: object) -> str:
    return f"expected an object, got {type(row).__name__}"


def _encoding_words(encoding: str) -> str:
    return f"it is {encoding.upper()} text; expected UTF-8. Convert it with `iconv -f {encoding.upper()} -t UTF-8`"
