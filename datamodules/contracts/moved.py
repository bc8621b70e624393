"""Imports of modules under the names they had before they moved: run folders keep class paths, and a run must stay resumable."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from typing_extensions import override

MOVED = Path(__file__).with_name("moved.json")
"""Old name of a module -> its present name."""


class MovedModules(MetaPathFinder, Loader):
    """Finds a module that is not where it was. It is the same module: a class has one identity under both names.

    Args:
        moved: old name -> present name.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self._moved = moved

    @override
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in self._moved else None

    @override
    def exec_module(self, module: ModuleType) -> None:
        # The import system returns what stands here when this ends, and not the empty module that it made.
        sys.modules[module.__name__] = importlib.import_module(self._moved[module.__name__])


def follow_moves() -> None:
    """Let old names be found, after every name that is there. Calling it again changes nothing."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules(json.loads(MOVED.read_text(encoding="utf-8"))))
