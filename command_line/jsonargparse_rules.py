"""Changes three rules by which jsonargparse reads a config; it has no settings for them.

So three functions of `jsonargparse._typehints` are replaced while it parses. They are private: `tests/test_command_line.py` fails
when one is not there, or is not called any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType
from typing import Any
from unittest.mock import patch

from jsonargparse import Namespace, _typehints

from command_line.short_names import class_path_of

_resolve = _typehints.resolve_class_path_by_name
_adapt = _typehints.adapt_class_type


@contextmanager
def our_rules(asked: dict[str, type]) -> Iterator[None]:
    """Parse inside with the three rules.

    Args:
        asked: filled with every name that a class was asked for by, and the base it has to have; for messages.
    """
    with (
        patch.object(_typehints, "resolve_class_path_by_name", lambda cls, name: _resolve_short(cls, name, asked)),
        patch.object(_typehints, "discard_init_args_on_class_path_change", _forget_arguments),
        patch.object(_typehints, "adapt_class_type", _adapt_as_given),
    ):
        yield


def _resolve_short(cls: type | tuple[type, ...], name: str, asked: dict[str, type]) -> str:
    """Take a short name (`simpo`) for a class path."""
    bases = [base for base in (cls if isinstance(cls, tuple) else (cls,)) if isinstance(base, type)]
    asked.update(zip([name], bases, strict=False))
    path = str(_resolve(cls, name))
    if "." in path:
        return path
    return next((short for base in bases if (short := class_path_of(base.__name__, name))), path)


def _forget_arguments(_: object, previous: Namespace | None, value: Namespace) -> None:
    """Make a later `class_path` drop all arguments of the class it replaces.

    By default jsonargparse silently keeps those that the new class happens to accept too: SimPO would run with DPO's beta.
    """
    if previous and "init_args" in previous and previous["class_path"] != value["class_path"]:
        previous["init_args"] = Namespace()


def _adapt_as_given(value: Any, *args: object, **kwargs: object) -> object:  # noqa: ANN401
    """Make `null` null, two and more levels deep, and in a list or a mapping there.

    jsonargparse 4.53 reads such a value and writes it back as Python does: `null` becomes the text None. Written as JSON it is read
    for what it is.
    """
    given = value.get("init_args") if isinstance(value, Namespace | dict) else None
    if isinstance(given, _typehints.NestedArg) and isinstance(given.val, NoneType | list | dict):
        value["init_args"] = given._replace(val=json.dumps(given.val))
    return _adapt(value, *args, **kwargs)
