"""Computes a digest of an object's behaviour: its values, the bytecode behind it, and the files that this code comes from."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType

# Code below these folders has a version and a name of its own; what is edited between two runs lies elsewhere.
_LIBRARIES = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
# But for this application, where it is installed among them: another version of it leaves other tokens.
_OURS = Path(__file__).resolve().parents[2]
_MADE_BY_PYTHON = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"}
_MADE_BY_PYTHON |= {"__firstlineno__", "__static_attributes__", "__abstractmethods__", "_abc_impl"}


def code_digest(value: object) -> str:
    """Hex digest of an object and all that its methods can read: two objects of one digest do the same.

    Covers the values of its fields, the bytecode of its class and of the functions that refer to each other from there, their
    defaults and closures, the globals they name, and the source files of all these outside installed libraries. A file's
    comments count too: a needless miss costs time, a needless hit trains on other data.

    Args:
        value: an instance, a function or a class.
    """
    walk = _Walk()
    walk.visit(value)
    return walk.digest.hexdigest()


class _Walk:
    """Visits everything once, in an order that depends on names alone."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, object] = {}
        self._files: set[str] = set()

    def visit(self, value: object) -> None:
        if isinstance(value, str | bytes | int | float | complex | None):
            return self._say(repr(value))
        self._say(type(value).__name__)
        if not isinstance(value, tuple | CodeType | Set):  # these lead back to themselves through others alone
            if id(value) in self._seen:
                return
            self._seen[id(value)] = value  # kept alive, so that no other object takes its id
        if isinstance(value, ModuleType):
            return self._file_of(value.__name__)
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        return self._data(value)

    def _data(self, value: object) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                self._say(repr(key))
                self.visit(value[key])
        elif isinstance(value, Set):
            self._say(repr(sorted(map(repr, value))))
        elif isinstance(value, Sequence):
            for item in value:
                self.visit(item)
        elif isinstance(value, re.Pattern):
            self.visit((value.pattern, value.flags))
        elif isinstance(value, partial):
            self.visit((value.func, value.args, value.keywords))
        else:
            self._wrapped_or_instance(value)

    def _wrapped_or_instance(self, value: object) -> None:
        if isinstance(value, staticmethod | classmethod | MethodType):
            return self.visit((value.__func__, getattr(value, "__self__", None)))
        if isinstance(value, property):
            return self.visit((value.fget, value.fset))
        if isinstance(value, cached_property):
            return self.visit(value.func)
        if _is_library(type(value).__module__):
            return self._say(re.sub(r"0x[0-9a-f]+", "", repr(value)))
        self.visit(type(value))
        names = [field.name for field in fields(value)] if is_dataclass(value) else sorted(getattr(value, "__dict__", {}))
        return self.visit({name: getattr(value, name, None) for name in names})

    def _class(self, value: type) -> None:
        self._say(f"{value.__module__}.{value.__qualname__}")
        for base in value.__mro__:
            if not _is_library(base.__module__):
                self._file_of(base.__module__)
                self.visit({name: held for name, held in vars(base).items() if not _is_made(name, held)})

    def _function(self, value: FunctionType) -> None:
        self._say(f"{value.__module__}.{value.__qualname__}")
        if _is_library(value.__module__ or ""):
            return
        self._file_of(value.__module__)
        self.visit(value.__code__)
        self.visit((value.__defaults__, value.__kwdefaults__))
        for cell in value.__closure__ or ():
            try:
                self.visit(cell.cell_contents)
            except ValueError:  # not filled yet
                self._say("empty")
        for name in sorted(_names(value.__code__)):
            if name in value.__globals__:
                self._say(name)
                self.visit(value.__globals__[name])

    def _code(self, value: CodeType) -> None:
        self.digest.update(value.co_code)
        self.visit((value.co_names, value.co_varnames, value.co_freevars, value.co_consts))

    def _file_of(self, module: str) -> None:
        if module in self._files or _is_library(module):
            return
        self._files.add(module)
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is not None and Path(file).is_file():
            self.digest.update(Path(file).read_bytes())

    def _say(self, text: str) -> None:
        self.digest.update(text.encode("utf-8", "surrogatepass") + b"\0")


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _is_made(name: str, value: object) -> bool:
    """Whether Python or `dataclass` made it: it follows from the fields, whose values are visited."""
    is_written = inspect.isfunction(value) and value.__code__.co_filename == "<string>"
    return is_written or name in _MADE_BY_PYTHON or name.startswith("__dataclass")


def _is_library(module: str) -> bool:
    held = sys.modules.get(module)
    file = getattr(held, "__file__", None)
    if file is None:
        return module != "__main__" and (held is None or module in sys.stdlib_module_names)
    path = Path(file).resolve()
    is_ours = str(_OURS).startswith(_LIBRARIES) and path.is_relative_to(_OURS)
    return str(path).startswith(_LIBRARIES) and not is_ours
