"""Finds the place of a key in config files: `configs/model/dpo.yaml, line 12`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

ENDS = {".yaml", ".yml", ".json"}
"""Of config files."""


def config_files(arguments: Sequence[str]) -> list[Path]:
    """The files that `--config` names, the last one first: it wins."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    named = [value for option, value in pairs if option in ("--config", "-c")]
    named += [option.partition("=")[2] for option in arguments if option.startswith("--config=")]
    return [Path(name) for name in reversed(named)]


def place_of(keys: Sequence[str], files: Sequence[Path]) -> str | None:
    """File and line of the innermost of the keys; None where no file has all of them.

    Args:
        keys: from the top, without `init_args`.
        files: searched in this order; parts that they name by path are read too.
    """
    return next((place for file in files for place in _places(file, keys)), None)


def shown(file: Path) -> str:
    """A path as people write it: without detours, from the working directory on where it lies below."""
    plain, here = Path(os.path.normpath(file)), Path.cwd()
    return str(plain.relative_to(here)) if plain.is_relative_to(here) else str(plain)


def _places(file: Path, keys: Sequence[str]) -> Iterator[str]:
    root = read_yaml(file)
    if root is not None:
        yield from _within(file, root, keys)


def read_yaml(file: Path) -> yaml.Node | None:
    """The tree of a file; None where it cannot be read."""
    try:
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _within(file: Path, node: yaml.Node, keys: Sequence[str]) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode) and Path(node.value).suffix in ENDS:
        yield from _places(file.parent / node.value, keys)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _within(file, item, keys)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == keys[0] and len(keys) == 1:
                yield f"{shown(file)}, line {key.start_mark.line + 1}"
            elif key.value == keys[0]:
                yield from _within(file, value, keys[1:])
            elif key.value == "init_args":
                yield from _within(file, value, keys)
