"""A row that records which columns were read, so that unread ones can be reported."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Any

from typing_extensions import override


class WatchedRow(dict[str, Any]):
    """A copy of a row that takes note of every column that is looked up. Whoever goes over all of them reads all.

    Args:
        row: column name -> cell.
    """

    def __init__(self, row: Mapping[str, object]) -> None:
        super().__init__(row)
        self._read: set[str] = set()

    @override
    def __getitem__(self, column: str) -> Any:
        self._read.add(column)
        return super().__getitem__(column)

    @override
    def get(self, column: str, default: Any = None) -> Any:
        self._read.add(column)
        return super().get(column, default)

    @override
    def __iter__(self) -> Iterator[str]:
        self._read.update(super().keys())
        return super().__iter__()

    @override
    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self._read.update(super().keys())
        return super().items()

    @override
    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self._read.update(super().keys())
        return super().values()

    def unread(self) -> list[str]:
        """Columns nobody looked up that hold text, true or false, or a list or an object with something in it."""
        left = [column for column in self.keys() if column not in self._read]
        return [column for column in left if _says_something(dict.__getitem__(self, column))]


def _says_something(cell: object) -> bool:
    if isinstance(cell, str):
        return bool(cell.strip())
    return isinstance(cell, bool) or (isinstance(cell, Sequence | Mapping) and bool(cell))
