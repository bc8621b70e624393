"""The command line's own parts: short names, help without imports, where a key stands, and the private functions they lean on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml
from jsonargparse import _typehints

import train
from command_line.causes import innermost
from command_line.help import PARTS, help_page
from command_line.places import place_of
from command_line.short_names import ROOT, choices, class_path_of
from lightning_modules.losses.base import Loss
from lightning_modules.losses.simpo import SimPOLoss
from tests import tiny
from tests.conftest import Run

LOSS_FILES = {path.stem for path in (ROOT / "configs/model/loss").glob("*.yaml")}


def test_every_loss_has_the_name_of_its_config() -> None:
    assert {*choices("Loss")} == LOSS_FILES
    for name in LOSS_FILES:
        shipped = yaml.safe_load((ROOT / f"configs/model/loss/{name}.yaml").read_text())
        assert class_path_of("Loss", name) == shipped["class_path"]


@pytest.mark.parametrize("base", PARTS.values())
def test_a_short_name_leads_to_a_class_that_can_be_built(base: str) -> None:
    found = {name: locate(choice.class_path) for name, choice in choices(base).items()}
    assert found
    for name, kind in found.items():
        assert isinstance(kind, type), name
        assert base in {one.__name__ for one in kind.__mro__}, name
        assert not getattr(kind, "__abstractmethods__", None), name
        assert class_path_of(base, name) == f"{kind.__module__}.{kind.__name__}"
        assert choices(base)[name].summary


def test_no_class_is_without_a_short_name() -> None:
    """Python's own list of the losses that are imported: the other way round."""
    for choice in choices("Loss").values():
        locate(choice.class_path)
    known = {choice.class_path for choice in choices("Loss").values()}
    below = list(Loss.__subclasses__())
    for kind in below:
        below += kind.__subclasses__()
    ours = {f"{kind.__module__}.{kind.__name__}" for kind in below if not getattr(kind, "__abstractmethods__", None)}
    assert {path for path in ours if path.startswith("lightning_modules.") and "._" not in path} <= known


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    config = {"trainer": tiny.trainer(tmp_path, max_steps=1), "model": tiny.module(tmp_path), "data": tiny.pair_data(tmp_path)}
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("spelling", ["simpo", "SimPO", "SimPOLoss"])
def test_a_short_name_is_a_class(spelling: str, run: Run, experiment: Path) -> None:
    cli = run("fit", "--config", experiment, "--model.loss", spelling, "--model.loss.beta", 3, "--trainer.fast_dev_run", 1)
    assert cli.model.loss == SimPOLoss(beta=3.0)
    assert cli.config.fit.model.init_args.loss.class_path == "lightning_modules.losses.simpo.SimPOLoss"


def test_short_names_stand_in_a_config(run: Run, tmp_path: Path) -> None:
    model = tiny.module(tmp_path, loss="simpo") | {"class_path": "preference"}
    data = tiny.pair_data(tmp_path) | {"class_path": "preference"}
    data["init_args"]["format"] = {"class_path": "columns", "init_args": {"tools": None}}
    callbacks = [{"class_path": "likelihood", "init_args": {"every_n_steps": 1}}]
    config = {"trainer": tiny.trainer(tmp_path, callbacks, fast_dev_run=1), "model": model, "data": data}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(config))
    cli = run("fit", "--config", tmp_path / "short.yaml")
    assert cli.model.loss == SimPOLoss()
    assert type(cli.datamodule).__name__ == "PreferenceDataModule"
    assert "LikelihoodMonitor" in {type(callback).__name__ for callback in cli.trainer.callbacks}  # type: ignore[attr-defined]


def test_an_option_that_a_later_part_drops_is_refused(run: Run, experiment: Path) -> None:
    with pytest.raises(ValueError, match=r"expected --model\.loss before --model\.loss\.beta"):
        run("fit", "--config", experiment, "--model.loss.beta", 3, "--model.loss", "simpo", "--trainer.fast_dev_run", 1)


def test_jsonargparse_still_calls_what_is_replaced(run: Run, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three private functions: each is there, and is called by its name in that module."""
    calls = []
    for name in ("_resolve_short", "_forget_arguments", "_adapt_as_given"):
        original = getattr(sys.modules["command_line.jsonargparse_rules"], name)

        def called(*args: Any, original: Any = original, name: str = name, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(f"command_line.jsonargparse_rules.{name}", called)
    before = _typehints.resolve_class_path_by_name
    run("fit", "--config", experiment, "--model.loss", "simpo", "--trainer.fast_dev_run", 1)
    assert {*calls} == {"_resolve_short", "_forget_arguments", "_adapt_as_given"}
    assert _typehints.resolve_class_path_by_name is before


def test_help_lists_the_choices_and_imports_no_torch() -> None:
    code = (
        "import sys, train; assert train.command(sys.argv[1:]) == 0; "
        "assert not {'torch', 'lightning', 'transformers', 'jsonargparse'} & {*sys.modules}"
    )
    asked = subprocess.run([sys.executable, "-c", code, "fit", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    words = asked.stdout.replace(",", " ").split()
    assert {*words} >= {*choices("Loss"), *choices("RowFormat"), "ddp", "--debug", "--trainer.help"}


@pytest.mark.parametrize("part", PARTS)
def test_help_of_a_part_lists_its_choices(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.command(["fit", f"--x.{part}.help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {*choices(PARTS[part])} <= {line.split()[0] for line in lines if line.startswith("  ")}


def test_help_of_a_choice_has_its_options() -> None:
    page = help_page(["fit", "--model.loss.help=SimPOLoss"])
    assert page is not None
    assert "beta: float = 2.0" in page
    assert "Target margin of the rewards" in page
    assert "needs_reference: bool" not in page
    assert help_page(["fit", "--config", "x.yaml"]) is None


def test_all_options_of_the_trainer(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("fit", "--trainer.help")
    assert "--trainer.gradient_clip_val" in capsys.readouterr().out


def test_a_key_is_found_through_the_parts(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part/model.yaml").write_text("# A comment\nclass_path: X\ninit_args:\n  loss: loss.yaml\n  other: 1\n")
    (tmp_path / "part/loss.yaml").write_text("class_path: Y\ninit_args:\n  beta: 1\n")
    config = tmp_path / "experiment.yaml"
    config.write_text("trainer: {max_steps: 1}\nmodel: part/model.yaml\n")
    assert place_of(["model", "loss", "beta"], [config]) == f"{tmp_path}/part/loss.yaml, line 3"
    assert place_of(["model", "other"], [config]) == f"{tmp_path}/part/model.yaml, line 5"
    assert place_of(["trainer", "max_steps"], [tmp_path / "nothing.yaml", config]) == f"{config}, line 1"
    assert place_of(["model", "loss", "gamma"], [config]) is None


def test_the_deepest_cause_of_a_message() -> None:
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'a.B'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'a.B':
        Parser key "loss":
          Problem with given class_path 'a.Loss':
            Parser key "beta":
              Expected a <class 'float'>. Got value: abc
    - Expected a <class 'NoneType'>
  Given value type: <class 'x.NestedArg'>
  Given value: NestedArg(key='loss.beta', val='abc')"""
    cause = innermost(message)
    assert (cause.keys, cause.class_path, cause.value) == (("model", "loss", "beta"), "a.Loss", "abc")
    assert cause.reasons == ("Expected a <class 'float'>",)
    assert innermost("anything else").reasons == ("anything else",)


def test_help_can_be_piped_to_a_reader_that_leaves() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        command = [sys.executable, "-c", "import sys, train; sys.exit(train.command(['--help']))"]
        finished = subprocess.run(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (128 + signal.SIGPIPE, "")
