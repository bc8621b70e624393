"""Turns a mistake in the arguments into two to five lines: what was expected, what came, where it stands, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate

from jsonargparse import ArgumentParser

from command_line.causes import Cause, innermost
from command_line.places import config_files, place_of, shown
from command_line.short_names import PACKAGES, ROOT, choices

_MANY = 48
"""More choices than these are not listed."""
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}
_UNKNOWN_OPTION = re.compile(
    r"(?:Option|Subcommand '\w+' does not accept option) '([^']+)'|unrecognized arguments: (?:--)?([^\s=]+)"
)
_UNKNOWN_CLASS = re.compile(
    r"Expected a dot import path string: (?P<name>\S+)|Unexpected import path format: (?P<path>\S+)|No module named"
    r"|has no attribute|Import path (?P<other>\S+) does not (?:correspond to a subclass of|implement protocol) (?P<base>\w+)"
)

_PLAIN_TYPE = re.compile(r"<class '(int|float|bool|str)'>")


@dataclass
class Asked:
    """What the command line was asked for."""

    arguments: Sequence[str] = ()
    classes: dict[str, type] = field(default_factory=dict)
    """Name that a class was asked for by -> the base it has to have."""


def advice(message: str, asked: Asked, options: Iterable[str]) -> str:
    """The message of jsonargparse in words for people, at most 8 lines.

    Args:
        message: as jsonargparse has it.
        asked: the arguments, and what was looked for.
        options: all options of the subcommand, `trainer.max_steps` for one.
    """
    cause = innermost(message)
    text = " ".join(cause.reasons)
    if match := re.search(r"File does not exist: '?([^']+)'?", text):
        return _no_file(match[1])
    if "Problems parsing config" in text:
        return _no_yaml(text, asked)
    if match := re.search(r"arguments are required: (.*)", text):
        return _missing(cause, match[1].split(", "))
    if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)|expected \"subcommand\" to be one of \{(.*)\}", text):
        return _no_subcommand(match[1], re.findall(r"\w+", match[2] or match[3]))
    if match := _UNKNOWN_OPTION.search(text):
        return _no_option(cause, match[1] or match[2], asked, options)
    if "Unexpected config" in text:
        came = text.partition(": ")[2]
        return f"expected a config of names and values, got one without names: {came}. Begin with `trainer:`, for one."
    if (match := _UNKNOWN_CLASS.search(text)) and not _PLAIN_TYPE.search(text):
        return _no_class(cause, match, asked)
    return _no_value(cause, asked)


def likely(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...?`, and a space before it; empty where nothing is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def _no_file(path: str) -> str:
    experiments = sorted((ROOT / "configs" / "experiment").glob("*.yaml"))
    known = {file.stem: file for file in experiments}
    near = get_close_matches(Path(path).stem, known, n=1, cutoff=0.5)
    hint = f"Did you mean {shown(known[near[0]])}?" if near else f"Experiments: {', '.join(known)}."
    return f"expected a config file at {shown(Path(path))}, got none. {hint}"


def _no_yaml(text: str, asked: Asked) -> str:
    lines = [int(line) for line in re.findall(r"line (\d+)", text)]
    reason = re.sub(r'\s*in "<[^>]*>", line \d+, column \d+:?', ";", text.partition("Problems parsing config: ")[2]).strip(" ;")
    files = config_files(asked.arguments)
    place = f"{files[0]}, line {lines[-1]}" if files and lines else "the config"
    return (
        f"expected YAML, got text that is none: {' '.join(reason.split())}\n"
        f"at: {place}. Look for a bracket, quote or indent that is not closed."
    )


def _missing(cause: Cause, names: Sequence[str]) -> str:
    if cause.class_path:
        keys = ", ".join(".".join((*cause.keys, name)) for name in names)
        return f"{cause.class_path.rsplit('.', 1)[-1]} needs {keys}, got none. Give each as --<name>, or in the config."
    return (
        f"expected {' and '.join(name.rsplit('.', 1)[-1] for name in names)}, got none. Name an experiment: "
        "--config configs/experiment/demo_dpo.yaml, for one. --help lists them."
    )


def _no_subcommand(given: str | None, known: Sequence[str]) -> str:
    came = f"got {given}.{likely(given, known)}" if given else "got none."
    example = "python train.py fit --config configs/experiment/demo_dpo.yaml"
    return f"expected one of {', '.join(known)} first, {came}\nFor example: {example}"


def _no_option(cause: Cause, name: str, asked: Asked, options: Iterable[str]) -> str:
    dashed = any(word.lstrip("-").partition("=")[0] == name for word in asked.arguments if word.startswith("--"))
    if cause.class_path:
        owner, known = ".".join(cause.keys), _arguments(cause.class_path)
        whose = f"{owner} ({cause.class_path.rsplit('.', 1)[-1]})"
    else:
        known = list(options)
        whose = "the command line" if dashed else "the config"
    keys = (*cause.keys, *name.split("."))
    listed = f"It has: {', '.join(known)}." if cause.class_path and len(known) <= _MANY else "All options: --help."
    if not cause.class_path and not dashed and name in asked.arguments:
        return f"expected options, which begin with --, got {name}. Put quotes around a value that has spaces."
    by_end = [option for option in known if option.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    near = f" Did you mean {by_end[0]}?" if by_end else likely(name, known)
    return f"{whose} has no option {name}.{near}{_place(keys, asked)}\n{listed}"


def _no_class(cause: Cause, match: re.Match[str], asked: Asked) -> str:
    text = " ".join(cause.reasons)
    given = match["name"] or match["path"] or match["other"] or cause.value or _last_asked(text, asked)
    if Path(given).suffix in (".yaml", ".yml", ".json"):
        near = likely(str(given), [shown(file) for file in (ROOT / "configs").rglob("*.yaml")])
        return f"expected a file at {given} for {'.'.join(cause.keys)}, got none.{near}{_place(cause.keys, asked)}"
    base = match["base"] or getattr(asked.classes.get(given), "__name__", None)
    known = _choices(base, asked.classes.get(given))
    what = f"{'an' if base[0] in 'AEIO' else 'a'} {base}" if base else "a class"
    near = likely(given.rsplit(".", 1)[-1], [*known, *known.values()])
    listed = "Give it as package.module.Class."
    if known:
        listed = f"Choices: {', '.join(known)}." if len(known) <= _MANY else f"--{'.'.join(cause.keys)}.help lists the choices."
    return f"expected {what} for {'.'.join(cause.keys)}, got {given}.{near}{_place(cause.keys, asked)}\n{listed}"


def _no_value(cause: Cause, asked: Asked) -> str:
    option = ".".join(cause.keys)
    literals = [value for reason in cause.reasons for value in re.findall(r"'([^']*)'", reason) if "Literal[" in reason]
    types = [_TYPES.get(name, name) for reason in cause.reasons for name in re.findall(r"<class '(?:[\w.]*\.)?(\w+)'>", reason)]
    if not literals and not types:
        return f"{f'{option}: ' if option else ''}{'; '.join(cause.reasons)}{_place(cause.keys, asked)}"
    wanted = f"one of {', '.join(literals)}" if literals else " or ".join(dict.fromkeys(types))
    near = likely(cause.value, literals) if cause.value else ""
    came = f", got {cause.value}" if cause.value else ""
    return f"expected {wanted} for {option}{came}.{near}{_place(cause.keys, asked)}\nChange --{option}, or the line in the config."


def _place(keys: Sequence[str], asked: Asked) -> str:
    if any(
        argument.replace("init_args.", "").partition("=")[0].rstrip("+") == f"--{'.'.join(keys)}" for argument in asked.arguments
    ):
        return ""
    place = place_of(keys, config_files(asked.arguments)) if keys else None
    return f"\nat: {place}" if place else ""


def _arguments(class_path: str) -> list[str]:
    """Names of a class's arguments, those that it hands on among them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(locate(class_path), fail_untyped=False, sub_configs=True)
    return sorted({key.split(".")[0] for key in parser.get_defaults().keys()})  # noqa: SIM118


def _choices(base: str | None, kind: type | None) -> Mapping[str, str]:
    """Name that can be given -> the class's name."""
    ours = {name: choice.class_name for name, choice in choices(base).items()} if base else {}
    imported = [] if kind is None else [one for one in _subclasses(kind) if one.__module__.split(".")[0] not in PACKAGES]
    return ours | {one.__name__: one.__name__ for one in imported if not one.__name__.startswith("_")}


def _subclasses(kind: type) -> list[type]:
    below: list[type] = kind.__subclasses__()
    return [*below, *(deeper for one in below for deeper in _subclasses(one))]


def _last_asked(text: str, asked: Asked) -> str:
    return next((name for name in reversed(asked.classes) if name in text or "." in name), text)
