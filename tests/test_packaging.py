"""What the project imports is what it declares, each with a range and a reason (test_configs holds the tested set)."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RUNTIME = ("train.py", "demo.py", "report.py", "datamodules", "lightning_modules", "callbacks", "judges", "reports")
DEVELOPMENT = ("tests", "bench", "studies")
OPTIONAL = ("studies", "judges", "qlora", "vllm", "fa2", "fa4")
IMPORTED_AS = {"sklearn": "scikit-learn"}
"""Packages whose module has another name, where they are not installed to say so themselves."""


def sources(names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        path = ROOT / name
        yield from path.rglob("*.py") if path.is_dir() else [path]


def imports_of(file: Path) -> Iterator[str]:
    """Top-level packages a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def third_party(names: tuple[str, ...]) -> set[str]:
    ours = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    found = {module for file in sources(names) for module in imports_of(file)}
    return found - ours - set(sys.stdlib_module_names)


def declared(*extras: str) -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


@pytest.mark.parametrize(
    ("files", "extras"),
    [(RUNTIME, OPTIONAL), (DEVELOPMENT, (*OPTIONAL, "dev"))],
    ids=["runtime", "dev"],
)
def test_every_package_that_is_imported_is_declared(files: tuple[str, ...], extras: tuple[str, ...]) -> None:
    distributions = packages_distributions()
    known = declared(*extras)
    missing = {
        module
        for module in third_party(files)
        if not any(canonicalize_name(name) in known for name in distributions.get(module, [IMPORTED_AS.get(module, module)]))
    }
    assert missing == set()


def test_every_requirement_has_a_range_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text[text.index("dependencies = [") : text.index("[tool.setuptools]")]
    lines = re.findall(r'^(?:\s+|\w+ = \[)"([^"]+)"[\],]+(.*)$', listed, re.MULTILINE)
    assert len(lines) == len(declared(*OPTIONAL, "dev"))
    for requirement, reason in lines:
        assert "#" in reason, requirement
        assert Requirement(requirement).specifier, requirement
