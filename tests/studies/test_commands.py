"""Every command that results were made with still starts: the studies' runs, those on the results' pages, and those of scripts.

Options are read, nothing is built: a renamed option, a class that has moved or a file that is gone is found in seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from studies.__main__ import levels
from studies.files import load_study, study_names
from studies.study import Cell, Study
from tests.parsing import Parse, parsing

ROOT = Path(__file__).parents[2]
SCRIPTS = ("studies/verdict/make_bases.sh", "assets/arithmetic/make.sh", "iterate.sh")
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "results").rglob("*.md"))
STUDIES = [name for name in study_names() if load_study(name).grid]
STAND_INS = {"SAMPLE": "configs/experiment/arithmetic_sample.yaml", "FIT": "configs/experiment/arithmetic_dpo.yaml"}
"""Variables of scripts that name an experiment."""
TRAIN = ("fit", "validate", "test", "predict")


@pytest.fixture(scope="module")
def parse() -> Iterator[Parse]:
    with parsing() as parse_only:
        yield parse_only


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def every_level(study: Study) -> list[Cell]:
    """Runs in which each level of each factor stands at least once."""
    shown: set[tuple[str, str]] = set()
    kept = []
    for cell in study.cells:
        if not shown.issuperset(cell.levels.items()):
            kept.append(cell)
            shown.update(cell.levels.items())
    return kept


def dropped(config: Namespace, words: Sequence[str]) -> list[str]:
    """Options whose value the config does not hold: a class that was chosen after them took them along."""
    given = {key.removeprefix("--"): value for key, value in itertools.pairwise(words) if key.startswith("--")}
    return [f"{key} {value}" for key, value in given.items() if not holds(config, key.split("."), value)]


def holds(config: Any, keys: list[str], value: str) -> bool:
    """Whether a node of the config has the value. Lists, classes and files of options are not looked into."""
    for key in keys:
        if isinstance(config, list) or key.endswith("+"):
            return True
        if key not in config and "init_args" in config:
            config = config.init_args
        if key not in config:
            return False
        config = config[key]
    wanted = yaml.safe_load(value)
    if isinstance(config, list | dict | Namespace) or str(value).endswith(".yaml"):
        return True
    return bool(str(config) == value or config == wanted or float(config) == float(value))


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_starts(parse: Parse, name: str) -> None:
    _, *words = load_study(name).cells[0].command()
    assert dropped(parse("fit", *words), words[2:]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_level_of_a_study_starts(parse: Parse, name: str) -> None:
    for cell in every_level(load_study(name)):
        _, *words = cell.command()
        assert dropped(parse("fit", *words), words[2:]) == [], cell.name


def test_an_option_that_a_class_took_along_is_found(parse: Parse) -> None:
    words = [
        "--config",
        "configs/experiment/arithmetic_dpo.yaml",
        "--model.loss.beta",
        "0.7",
        "--model.loss",
        "configs/model/loss/dpo.yaml",
    ]
    with pytest.raises(ValueError, match=r"^expected --model\.loss before --model\.loss\.beta"):
        parse("fit", *words)
    config = parse("fit", *words[:2], *words[4:])
    assert dropped(config, words) == ["model.loss.beta 0.7"], "nor may it get lost where the command line has not seen it"


def commands(text: str, *, is_script: bool) -> list[list[str]]:
    """Lines that start Python, as a shell splits them; of a page its bash blocks, without those of another commit."""
    blocks = [text] if is_script else re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks if "git worktree" not in block for line in block.replace("\\\n", " ").splitlines()]
    # A variable stands for an experiment, a path or a number.
    words = [
        shlex.split(
            re.sub(
                r"\$\{?\w+[^}\s\"/]*\}?", lambda found: STAND_INS.get(found[0].strip("${}"), "1"), line.replace("$PYTHON", "python")
            ),
            comments=True,
        )
        for line in lines
    ]
    started = [[Path(line[0]).name, *line[1:]] for line in words if line and Path(line[0]).name == "python"]
    return [[word for word in line[1:] if word not in {"...", "$@"}] for line in started]


FOUND = [
    pytest.param(words, id=f"{place}-{number}")
    for place in (*PAGES, *SCRIPTS)
    for number, words in enumerate(commands((ROOT / place).read_text(encoding="utf-8"), is_script=place in SCRIPTS))
]


@pytest.mark.parametrize("words", FOUND)
def test_a_command_starts(parse: Parse, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "train.py":
        assert words[1] in TRAIN
        assert dropped(parse(*words[1:]), words[2:]) == []
    elif words[:2] == ["-m", "studies"]:
        for name in itertools.takewhile(lambda word: not word.startswith("--"), words[3:]):
            study = load_study(name)
            if "--only" in words:
                assert study.select(levels(words[words.index("--only") + 1 :]))
    else:
        start(words, monkeypatch)


class Read(BaseException):
    """The options are read: what comes next would be work."""


def start(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the options of another program; one that reads none has to be there."""
    module, options = (words[1], words[2:]) if words[0] == "-m" else (Path(words[0]).stem, words[1:])
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None
    if not spec.submodule_search_locations and "ArgumentParser(" not in Path(spec.origin).read_text(encoding="utf-8"):
        return
    original = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        original(parser, *arguments)
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *options])
    # Another test may have imported what is run here; the package around it stays, because its parent and its modules know it.
    run = f"{module}.__main__" if spec.submodule_search_locations else module
    monkeypatch.delitem(sys.modules, run, raising=False)
    with pytest.raises(Read):
        runpy.run_module(module, run_name="__main__")
