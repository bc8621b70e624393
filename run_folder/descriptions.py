"""Reads the meaning of every metric from the tables of `docs/metrics.md` and `docs/rlhf.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("metrics.md", "rlhf.md")


def table_rows(page: str) -> dict[str, str]:
    """`{name: description}` of every metric in a page's tables: unit, range and what it is; `<...>` stands for a part of a name.

    Args:
        page: Markdown. A row counts whose first cell holds names in backticks with a slash in them.
    """
    found = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("| `") or "/" not in cells[0]:
            continue
        for name in re.findall(r"`([^`]+)`", cells[0]):
            found[name] = f"{cells[-1]} ({'; '.join(cells[1:-1])})"
    return found


def pattern_of(name: str) -> re.Pattern[str]:
    """What the tags of a documented name look like."""
    return re.compile(re.sub(r"<[a-z]+>", "[^/]+", name))


def description_of(tag: str) -> str:
    """Description of a metric; empty if the pages have none or are missing."""
    exact = _documented().get(tag)
    if exact:
        return exact
    return next((words for name, words in _documented().items() if "<" in name and pattern_of(name).fullmatch(tag)), "")


@cache
def _documented() -> Mapping[str, str]:
    paths = [DOCS / page for page in PAGES]
    return {name: words for path in paths if path.is_file() for name, words in table_rows(path.read_text("utf-8")).items()}
