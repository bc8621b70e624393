"""The rules of docs/architecture.md that a machine can hold: who imports whom, and how long a file may be."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "datamodules",
    "lightning_modules",
    "callbacks",
    "judges",
    "reports",
    "run_folder",
    "diagnosis",
    "advice",
    "command_line",
    "prefscope",
)
MEASURING = ("bench", "studies")
OURS = (*PACKAGES, "train", "report", *MEASURING, "tests")
MAX_LINES, MAX_TEST_LINES, MAX_FUNCTION_LINES, MAX_FILES = 250, 400, 60, 16
# A catalogue, where each file is one entry that configs name by its file.
CATALOGUES = {"lightning_modules/losses"}

# A batch, a prompt, a data store, a verdict: what every package may know of datamodules and judges.
CONTRACTS = ("datamodules.contracts", "judges.base")
# The token ids of a conversation: a judge that is a model reads what training made for it, by the same function.
CONVERSATIONS = ("datamodules.tokens", "datamodules.contracts")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def everything() -> list[Path]:
    return sorted([*ROOT.glob("*.py"), *files(*PACKAGES, *MEASURING, "tests")])


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in the file the import stands."""
    for node in ast.walk(tree(path)):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.split(".")[0] in OURS)


def base_names(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]


@cache
def concrete_modules() -> set[str]:
    """Files that define a LightningModule or a LightningDataModule."""
    return {
        module_name(path)
        for path in files("datamodules", "lightning_modules")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and any(name.endswith("Module") and name != "Module" for name in base_names(node))
    }


def within(*allowed: str) -> Callable[[str], bool]:
    return lambda name: any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


RULES: dict[str, Callable[[str], bool]] = {
    "datamodules": within("datamodules", "judges"),
    "judges": within("judges", *CONVERSATIONS),
    "lightning_modules/losses": within("lightning_modules.losses"),
    "lightning_modules/models": within(
        "lightning_modules.models", "lightning_modules.token_stats", "lightning_modules.losses", *CONTRACTS
    ),
    "lightning_modules": within("lightning_modules", *CONTRACTS),
    "callbacks": lambda name: (
        within("callbacks", "judges", "lightning_modules", "datamodules", "run_folder", "reports.page", "reports.runs")(name)
        and name not in concrete_modules()
    ),
    "reports": within(
        "reports", *(f"run_folder.{name}" for name in ("rows", "heatmap_figure", "properties", "verdict", "program"))
    ),
    "run_folder": within("run_folder"),
    "diagnosis": lambda name: (
        within("diagnosis", "callbacks", "datamodules.contracts", "lightning_modules", "reports", "run_folder")(name)
        and name not in concrete_modules()
    ),
    "advice": lambda name: (
        within("advice", "callbacks", "datamodules", "judges", "lightning_modules", "run_folder")(name)
        and name not in concrete_modules()
    ),
    "command_line": lambda name: (
        within("command_line", "callbacks", "datamodules", "lightning_modules", "run_folder")(name) or name == "prefscope"
    ),
    "prefscope": within("prefscope"),
}
"""Folder -> whether a file in it may import a module of ours."""


def test_the_picture_of_the_house_shows_every_folder() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = page.partition("## The house (T)")[2].split("```")[1]
    drawn: list[Path] = []
    for indent, name in re.findall(r"^( *)(\w+)/ ", picture, re.MULTILINE):
        drawn.append(Path(*drawn[-1].parts[: len(indent) // 2], name) if indent else Path(name))
    there = {path.parent.relative_to(ROOT) for path in files(*PACKAGES, *MEASURING)}
    assert sorted(drawn) == sorted(there), "draw every folder with code in docs/architecture.md, The house"
    commands = sorted(path.name for path in ROOT.glob("*.py"))
    assert sorted(re.findall(r"\w+\.py", picture)) == commands, "name every command in docs/architecture.md, The house"


@pytest.mark.parametrize("folder", RULES)
def test_packages_import_only_what_they_may(folder: str) -> None:
    wrong = [f"{module_name(path)} imports {name}" for path in files(folder) for name in imports(path) if not RULES[folder](name)]
    assert not wrong


def test_the_rules_see_what_they_forbid() -> None:
    """A rule that allowed everything would pass; these are the imports that must not come."""
    assert {"lightning_modules.preference", "lightning_modules.objective_module", "datamodules.base"} <= concrete_modules()
    assert not RULES["callbacks"]("lightning_modules.preference")
    assert not RULES["datamodules"]("lightning_modules.objective_module")
    assert not RULES["lightning_modules"]("datamodules.preference")
    assert not RULES["judges"]("datamodules.pool.schema")
    # A task names its judge, and no judge knows a task: neither folder goes round in a circle.
    assert not RULES["judges"]("datamodules.tasks.base")


def test_every_module_that_is_named_is_there() -> None:
    """A file that moved leaves no import, and no class path of a config, behind."""
    there = {module_name(path) for path in everything()} | {"prefscope"}
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in everything()}
    missing = {f"{module_name(path)}: {name}" for path in everything() for name in imports(path) if name not in there | folders}
    for path in everything():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module in folders - there and node.module.split(".")[0] in OURS:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                missing |= {f"{module_name(path)}: {name}" for name in names - there - folders}
    for path in (ROOT / "configs").rglob("*.yaml"):
        named = re.findall(r"class_path: (\S+)\.\w+$", path.read_text(encoding="utf-8"), re.MULTILINE)
        missing |= {f"{path.name}: {name}" for name in named if name.split(".")[0] in OURS and name not in there}
    assert not missing


def test_only_tests_and_measurements_import_the_entry_points() -> None:
    wrong = [
        module_name(path)
        for path in files(*PACKAGES)
        if {"train", "report", *MEASURING, "tests"} & {name.split(".")[0] for name in imports(path)}
    ]
    assert not wrong


def test_files_are_small_and_named_for_what_they_hold() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in everything()}
    limit = {path: MAX_TEST_LINES if (ROOT / "tests") in path.parents else MAX_LINES for path in lengths}
    assert {module_name(path): length for path, length in lengths.items() if length > limit[path]} == {}
    assert [module_name(path) for path in lengths if path.stem in ("utils", "helpers", "common", "misc")] == []


def test_no_folder_is_crowded() -> None:
    """A reader takes in a folder at a glance; one with more files needs rooms (docs/architecture.md, The house)."""
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in files(*PACKAGES, *MEASURING) if path.stem != "__init__")
    assert {name: count for name, count in folders.items() if count > MAX_FILES and name not in CATALOGUES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{module_name(path)}.{node.name}": node.end_lineno - node.lineno + 1
        for path in everything()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    }
    assert long == {}


def test_no_code_asks_for_the_name_of_a_loss() -> None:
    names = {path.stem for path in files("lightning_modules/losses")} - {"__init__", "base"}
    asked = [
        f"{module_name(path)}:{node.lineno}"
        for path in [ROOT / "train.py", *files("lightning_modules", "callbacks")]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Compare | ast.MatchValue)
        and any(isinstance(leaf, ast.Constant) and leaf.value in names for leaf in ast.walk(node))
    ]
    assert not asked


def test_no_module_saves_hyperparameters() -> None:
    """Those in a checkpoint would override the config and the command line on resumption."""
    callers = [module_name(path) for path in files(*PACKAGES) if ".save_hyperparameters(" in path.read_text(encoding="utf-8")]
    assert not callers
