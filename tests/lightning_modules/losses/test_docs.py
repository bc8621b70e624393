"""docs/losses.md lists every loss with its real class path and its real defaults."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from lightning_modules.losses.base import Loss
from tests.lightning_modules.losses.cases import all_loss_classes
from tests.lightning_modules.losses.docs_numbers import told

DOCS = Path(__file__).parents[3] / "docs" / "losses.md"


def table_rows() -> dict[str, list[str]]:
    """Cells of each row of the table, by class path below `lightning_modules.losses`."""
    rows = [line.strip("|").split(" | ") for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {cells[1].strip(" `"): cells for cells in rows if cells[1].strip(" `").endswith("Loss")}


ROWS = table_rows()


@pytest.mark.parametrize("cls", all_loss_classes(), ids=lambda cls: cls.__name__)
def test_row_gives_defaults_and_need_of_a_reference(cls: type[Loss]) -> None:
    path = f"{cls.__module__.removeprefix('lightning_modules.losses.')}.{cls.__name__}"
    assert path in ROWS, f"add a row for {path} to docs/losses.md"
    assert len(ROWS[path]) == 8, f"the row of {path} has a stray or missing column"
    *_, defaults, needs_reference, _ = ROWS[path]
    assert needs_reference.strip() == ("yes" if cls.needs_reference else "no")
    for f in fields(cls):  # type: ignore[arg-type]
        value = type(f.default_factory()).__name__ if f.default_factory is not MISSING else _printed(f.default)
        assert re.search(rf"`{f.name}`( \S+)? {value}(,| \(|$)", defaults.strip()), f"{path}: default of {f.name} is {value}"


@pytest.mark.parametrize("path", ROWS)
def test_row_tells_the_incentives_at_the_start_and_late(path: str) -> None:
    assert ROWS[path][4].strip() == told(path)


def test_no_row_without_a_class() -> None:
    known = {f"{cls.__module__.removeprefix('lightning_modules.losses.')}.{cls.__name__}" for cls in all_loss_classes()}
    assert set(ROWS) == known, "each loss has a row in the table of docs/losses.md"


def _printed(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else re.escape(f"{default:g}")
