"""Short names for classes in a config: `simpo` for `lightning_modules.losses.simpo.SimPOLoss`.

Classes are read from the source and not imported, so that a list of them takes a fraction of a second.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "judges")
"""Where the classes are that a config may name."""

_PLAIN_FILES = frozenset({"module", "data", "base", "task"})
"""File names that say nothing: the folder's name is taken."""

_KINDS = ("DataModule", "Module", "PolicySpec", "Policy", "Loss", "Task", "Judge")
"""Ends of class names that say what the place says already."""

_LIGHTNINGS = {"Callback": {"ModelCheckpoint"}}
"""Base -> subclasses of it that are Lightning's, and that ours derive from."""


@dataclass(frozen=True)
class Choice:
    """A class as its source has it."""

    path: Path
    node: ast.ClassDef

    @property
    def class_name(self) -> str:
        """Name of the class."""
        return self.node.name

    @property
    def class_path(self) -> str:
        """What `class_path` of a config is."""
        return ".".join((*self.path.relative_to(ROOT).with_suffix("").parts, self.node.name))

    @property
    def bases(self) -> list[str]:
        """Names of the bases, without their modules."""
        return [ast.unparse(base).split("[")[0].split(".")[-1] for base in self.node.bases]

    @property
    def docstring(self) -> str:
        """The docstring; empty where there is none."""
        return ast.get_docstring(self.node) or ""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.docstring.split("\n")[0]

    @cached_property
    def defined(self) -> set[str]:
        """Names of methods that the class defines and can call."""
        return {node.name for node in self._methods if not _is_abstract(node)}

    @cached_property
    def abstract(self) -> set[str]:
        """Names of methods that the class leaves to its subclasses."""
        return {node.name for node in self._methods if _is_abstract(node)}

    @property
    def own_name(self) -> str | None:
        """`short_name = "..."` in the class's body: a name that its file does not give it."""
        for node in self.node.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and _names(node) == ["short_name"]:
                return str(node.value.value)
        return None

    @property
    def _methods(self) -> list[ast.FunctionDef]:
        return [node for node in self.node.body if isinstance(node, ast.FunctionDef)]


def choices(base: str) -> dict[str, Choice]:
    """Short name -> class, sorted, of all classes of ours that have a base of this name and can be built.

    The name is `short_name` of the class, else that of its file, where it is the only such class there; else that of the class
    in small letters.
    """
    classes = [choice for choice in _classes().values() if _derives(choice, base) and not _left_abstract(choice.class_name)]
    by_file = [_file_name(choice) for choice in classes]
    named = {}
    for choice in classes:
        is_named_by_file = by_file.count(_file_name(choice)) == 1 or _plain(_stem(choice)) == _plain(_file_name(choice))
        named[choice.own_name or (_file_name(choice) if is_named_by_file else _snake(_stem(choice)))] = choice
    return dict(sorted(named.items()))


def class_path_of(base: str, name: str) -> str | None:
    """Class path behind a short name, however it is spelt (`ada_dpo`, `AdaDPO`, `AdaDPOLoss`); None where there is none."""
    for short, choice in choices(base).items():
        if _plain(name) in {_plain(short), _plain(choice.class_name), _plain(_stem(choice))}:
            return choice.class_path
    return None


def found(name: str) -> Choice | None:
    """The class of this name, ours only."""
    return _classes().get(name)


def lineage(choice: Choice) -> Iterator[Choice]:
    """The class and its bases that are ours, nearest first."""
    yield choice
    for base in choice.bases:
        if base in _classes():
            yield from lineage(_classes()[base])


@cache
def _classes() -> dict[str, Choice]:
    """Public classes at the top of all files, by name."""
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {
        node.name: Choice(path, node)
        for path in files
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }


def _derives(choice: Choice, base: str) -> bool:
    return any({base, *_LIGHTNINGS.get(base, ())} & {*one.bases} for one in lineage(choice))


@cache
def _left_abstract(name: str) -> frozenset[str]:
    choice = _classes().get(name)
    if choice is None:
        return frozenset()
    inherited = set().union(*(_left_abstract(base) for base in choice.bases))
    defined = choice.defined.union(*(one.defined for one in lineage(choice)))
    return frozenset((inherited | choice.abstract) - defined)


def _is_abstract(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith("abstractmethod") for decorator in node.decorator_list)


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def _file_name(choice: Choice) -> str:
    return choice.path.parent.name if choice.path.stem in _PLAIN_FILES else choice.path.stem


def _stem(choice: Choice) -> str:
    """The class's name without its kind: `SimPO` of SimPOLoss."""
    kind = next((kind for kind in _KINDS if choice.class_name.endswith(kind) and choice.class_name != kind), "")
    return choice.class_name.removesuffix(kind)


def _snake(name: str) -> str:
    """`HHDialogues` is hh_dialogues."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
