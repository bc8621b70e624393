"""Finds the innermost cause in a message of jsonargparse, which lists every branch that it has tried."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NOISE = re.compile(
    r"$|Does not validate against any|Subtypes: |Errors:$|Given value type: |Subclass types expect one of|- a (class path|dict)"
    r"|(- )?Expected a <class 'NoneType'>|(- )?Expected a path but "
)
_KEY = re.compile(r'Parser key "([^"]+)":$')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':$")
_CALLABLE = re.compile(r"Type \S.* expects a function or a callable class: ")
_COPY = re.compile(r"\. Got value: Namespace\((?:.*?class_path='([^']*)')?.*$")
_VALUE = re.compile(r"(?:Given|Got) value: (.*)$")


@dataclass(frozen=True)
class Cause:
    """What was wrong, and where."""

    keys: tuple[str, ...]
    """The option, from the top; without `init_args`."""
    class_path: str | None
    """The class whose argument it is, as far as known."""
    reasons: tuple[str, ...]
    """What jsonargparse says of it: several where a value may be of several types."""
    value: str | None
    """The value that came, where the message has a plain one."""


@dataclass(frozen=True)
class _Leaf:
    depth: int
    keys: tuple[str, ...]
    class_path: str | None
    text: str


def innermost(message: str) -> Cause:
    """The deepest reasons of a message; those of the first branch, if branches are equally deep."""
    leaves = list(_leaves(message))
    if not leaves:
        return Cause((), None, tuple(filter(None, [message.strip()])), None)
    # A key that was reached says more than the indentation of one that was not.
    deepest = max(leaves, key=lambda leaf: (len(leaf.keys), leaf.class_path is not None, leaf.depth))
    together = [leaf.text for leaf in leaves if (leaf.keys, leaf.class_path) == (deepest.keys, deepest.class_path)]
    return Cause(deepest.keys, deepest.class_path, tuple(dict.fromkeys(together)), _plain_value(message))


def _leaves(message: str) -> Iterator[_Leaf]:
    opened: list[tuple[int, str, str]] = []
    for line in _unfolded(message):
        text = line.strip()
        indent = len(line) - len(line.lstrip()) + 2 * text.startswith("- ")
        text = text.removeprefix("- ")
        if _NOISE.match(text) or text.startswith("Given value: "):
            continue
        while opened and opened[-1][0] >= indent:
            opened.pop()
        kind, name = _opens(text)
        if kind:
            opened.append((indent, kind, name))
            continue
        keys = tuple(part for _, what, key in opened if what == "key" for part in key.split(".") if part != "init_args")
        classes = [path for _, what, path in opened if what == "class"]
        yield _Leaf(
            indent, keys, classes[-1] if classes else None, _VALUE.sub("", text).rstrip(". ") if "Got value" in text else text
        )


def _unfolded(message: str) -> Iterator[str]:
    """Lines; what a callable's message puts on one line stands on its own, below the class that it is about."""
    for line in message.splitlines():
        start = " " * (len(line) - len(line.lstrip()))
        if (match := _CALLABLE.search(line)) and (value := _COPY.search(line)):
            yield f"{start}Problem with given class_path '{value[1]}':"
            start += " "
        rest = line[match.end() :] if match else line.lstrip()
        yield start + _COPY.sub("", rest)


def _opens(text: str) -> tuple[str, str]:
    if match := _KEY.match(text):
        return "key", match[1]
    if match := _CLASS.match(text):
        return "class", match[1]
    return "", ""


def _plain_value(message: str) -> str | None:
    values = [match[1] for line in message.splitlines() if (match := _VALUE.search(_COPY.sub("", line)))]
    return next((value for value in values if not value.startswith(("NestedArg(", "Namespace(", "{", "["))), None)
