"""docs/findings.md has a verdict in each row, and links that lead somewhere (tests/studies/test_pages.py: what has a row)."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "findings.md"


def test_every_claim_has_a_verdict() -> None:
    """Bold, where the table has a column for it; a definition has a dash."""
    for section in PAGE.read_text(encoding="utf-8").split("\n## "):
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        if lines and "| verdict |" in lines[0]:
            column = [cell.strip() for cell in lines[0].split("|")].index("verdict")
            for line in lines[1:]:
                verdict = line.split("|")[column].strip()
                is_judged = "**" in verdict or verdict == "-" or verdict.startswith(("a rule exists", "what DPO dispersed"))
                assert is_judged, line[:80]


def test_links_to_pages_and_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).exists(), target
