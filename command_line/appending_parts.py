"""Refuses `callbacks+:` in a part file: a part is parsed alone, so it would replace the list instead of extending it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from command_line.places import ENDS, read_yaml, shown


def require_no_appending_parts(arguments: Sequence[str]) -> None:
    """Look at the files that the arguments name, and the parts that these name.

    Raises:
        ValueError: if a part appends to a list that it cannot see.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        if equals and Path(value).suffix in ENDS:
            is_config = option in ("--config", "-c")
            for file, key in _appending(Path(value), is_part=not is_config):
                name = str(key.value).removesuffix("+")
                raise ValueError(
                    f"expected {name} in a part, got {key.value}: a part file is parsed alone, so it would replace the list "
                    "instead of adding to it.\n"
                    f"at: {shown(file)}, line {key.start_mark.line + 1}\n"
                    f"Put it under its section in a file of its own, and add that by --config; or use --trainer.{name}+ CLASS."
                )


def _appending(file: Path, *, is_part: bool) -> Iterator[tuple[Path, yaml.ScalarNode]]:
    root = read_yaml(file)
    if root is not None:
        yield from _within(file, root, is_part=is_part)


def _within(file: Path, node: yaml.Node, *, is_part: bool) -> Iterator[tuple[Path, yaml.ScalarNode]]:
    if isinstance(node, yaml.ScalarNode) and Path(node.value).suffix in ENDS:
        yield from _appending(file.parent / node.value, is_part=True)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _within(file, item, is_part=is_part)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if is_part and isinstance(key, yaml.ScalarNode) and key.value.endswith("+"):
                yield file, key
            yield from _within(file, value, is_part=is_part)
