"""Pages in docs say commands that exist, and files that studies name are there."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from studies.__main__ import parser
from studies.files import load_study, study_names

ROOT = Path(__file__).parents[2]
ANOTHER_COMMIT = "git worktree add"
"""Commands of a block that begins so are those of another commit."""
COMMAND = re.compile(r"python -m ((?:studies|bench)[\w.]*)((?: [\w./=,\"-]+)*)")


def commands() -> list[tuple[str, str, str]]:
    """(page, module, arguments) of every command that a page of docs shows."""
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        # The log tells what was run at the time.
        if page.name != "log.md":
            text = re.sub(rf"```bash\n{ANOTHER_COMMIT}.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
            found += [(str(page.relative_to(ROOT)), match[1], match[2]) for match in COMMAND.finditer(text)]
    return found


def test_every_command_of_a_page_exists() -> None:
    shown = commands()
    assert len(shown) > 20
    assert [command for command in shown if find_spec(command[1]) is None] == []


def test_every_study_that_a_page_names_exists() -> None:
    asked = {(page, arguments) for page, module, arguments in commands() if module == "studies"}
    for _, arguments in asked:
        names = vars(parser().parse_args(arguments.split()))["names"]
        assert set(names) <= set(study_names()), arguments


def test_every_table_and_figure_of_the_paper_has_a_row() -> None:
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert numbers(rows, "Tables?") >= set(range(1, 11))
    assert numbers(rows, "Fig\\.") >= set(range(1, 13))
    for kind, count in (("Corollary", 3), ("Observation", 3), ("Property", 3), ("Proposition", 1)):
        assert numbers(rows, kind) >= set(range(1, count + 1)), kind


def numbers(text: str, kind: str) -> set[int]:
    """Of `Table 1 (and 7)`, `Tables 8, 9`, `Tables 4 to 6`: the numbers."""
    found: set[int] = set()
    for first, rest in re.findall(rf"{kind} (\d+)((?:,? (?:\(and |and |to )?\d+)*)", text):
        others = [int(number) for number in re.findall(r"\d+", rest)]
        found |= set(range(int(first), others[0] + 1)) if " to " in rest else {int(first), *others}
    return found


@pytest.mark.parametrize("name", study_names())
def test_files_that_a_study_names_are_there(name: str) -> None:
    study = load_study(name)
    words = {word for cell in study.cells for word in cell.command()}
    files = [word for word in words if re.fullmatch(r"(configs|studies|assets)/[\w./-]+", word)]
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert study.page is None or find_spec(study.page) is not None


def test_every_page_is_of_a_study() -> None:
    """What writes a page is named by a study, or is what others are made of."""
    modules = {
        f"studies.pages.{path.stem}" for path in (ROOT / "studies" / "pages").glob("*.py") if "def write(" in path.read_text()
    }
    assert modules <= {page for name in study_names() if (page := load_study(name).page) is not None}
