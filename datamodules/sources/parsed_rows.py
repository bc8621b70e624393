"""Parses rows in one loop, and counts the bad ones with their error and their place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import count
from typing import TypeVar

from datamodules.contracts.records import BadRowError, Fault, RowLeftOut
from datamodules.sources.readers import DataSource
from datamodules.sources.row_report import RowReport

Parsed = TypeVar("Parsed")


def parsed_rows(
    source: DataSource,
    report: RowReport,
    parse: Callable[[Mapping[str, object], int], Parsed],
    wanted: Collection[int] | None = None,
) -> Iterator[tuple[int, Parsed]]:
    """(row number, what `parse` makes of the row) of every good row.

    Args:
        source: where the rows are.
        report: counts the rows that are read, and the bad ones.
        parse: raises BadRowError for a bad row. Whatever else it raises is counted as a fault of its own kind: one odd row
            does not end a run that is to leave bad rows out.
        wanted: numbers of the rows to read; all by default.
    """
    numbers = count()
    for file, rows in source.parts():
        for position, (row, row_number) in enumerate(zip(rows, numbers)):  # noqa: B905 (numbers have no end)
            if wanted is not None and row_number not in wanted:
                continue
            report.rows_read += 1
            try:
                if isinstance(row, BadRowError):
                    raise row
                parsed = parse(row, row_number)
            except RowLeftOut as reason:
                report.leave_out(str(reason))
            except BadRowError as error:
                report.add(row_number, error, f"{file} row {position}" if file else "")
            except Exception as error:
                bad = BadRowError(Fault.FORMAT_FAILS, f"{type(error).__name__}: {error}"[:300])
                report.add(row_number, bad, f"{file} row {position}" if file else "")
            else:
                yield row_number, parsed
