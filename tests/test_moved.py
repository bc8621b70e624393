"""Modules that have moved: old class paths, which run folders keep, give the classes that are there now."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.contracts.moved import MOVED, follow_moves

ROOT = Path(__file__).parent.parent
NAMES: dict[str, str] = json.loads(MOVED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("old", NAMES)
def test_an_old_name_is_the_module_that_is_there(old: str) -> None:
    assert not (ROOT / f"{old.replace('.', '/')}.py").exists(), "a name that is taken again must not be in the list"
    assert importlib.import_module(old) is importlib.import_module(NAMES[old])


def test_classes_are_one_under_both_names_in_a_fresh_process() -> None:
    code = (
        "from callbacks.checkpoint import RunCheckpoint as old; from callbacks.saving.checkpoint import RunCheckpoint as new; "
        "assert old is new and new.__module__ == 'callbacks.saving.checkpoint'; import datamodules.batches as b; "
        "from datamodules.contracts import batches; "
        "from datamodules.tasks.arithmetic import ArithmeticTask; "
        "assert b is batches and batches.__spec__.name == 'datamodules.contracts.batches'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_is_not_there_stays_an_error_and_the_finder_is_one() -> None:
    follow_moves()
    follow_moves()
    assert [type(finder).__name__ for finder in sys.meta_path].count("MovedModules") == 1
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("callbacks.never_there")
