"""Finds shipped files from any working directory: experiments by name, parts and models by their paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jsonargparse import Namespace

from command_line.short_names import ROOT

_CONFIG = ("--config", "-c")
_FOLDERS = ("configs/", "assets/")
_EXPERIMENTS = ROOT / "configs" / "experiment"


def with_shipped_files(arguments: Sequence[str]) -> list[str]:
    """The arguments, with paths of shipped files where the working directory has none of that name.

    `--config toy_dpo` is the experiment of that name; `configs/...` and `assets/...` are looked for among the shipped files.
    """
    return list(_replaced(arguments))


def _replaced(arguments: Sequence[str]) -> Iterator[str]:
    before = ""
    for argument in arguments:
        is_option = argument.startswith("--")
        option, equals, value = argument.partition("=") if is_option else (before, "", argument)
        found = _experiment(value) if option in _CONFIG else shipped(value)
        yield f"{option}={found}" if is_option and equals else argument if is_option else found
        before = argument


def shipped(path: str) -> str:
    """A path that begins like those of shipped files, to the file itself; any other as it is."""
    return str(ROOT / path) if path.startswith(_FOLDERS) and not Path(path).exists() and (ROOT / path).exists() else path


def _experiment(name: str) -> str:
    file = _EXPERIMENTS / f"{name}.yaml"
    return str(file) if not Path(name).exists() and "/" not in name and file.is_file() else shipped(name)


def find_shipped(config: Namespace) -> None:
    """Replace paths of shipped files in a parsed config."""
    for key, value in config.items():
        if isinstance(value, str | list | dict):
            config[key] = _found(value)


def _found(value: object) -> object:
    if isinstance(value, str):
        return shipped(value)
    if isinstance(value, Namespace):
        find_shipped(value)
    elif isinstance(value, list):
        return [_found(item) for item in value]
    elif isinstance(value, dict):
        return {key: _found(item) for key, item in value.items()}
    return value
