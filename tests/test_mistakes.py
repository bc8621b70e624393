"""Forty mistakes on the command line: each is answered in at most 8 lines that name the cause and the remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.mistakes import MISTAKES, Mistake, answer_in, ask, title, write_run


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the run in it."""
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_answered_in_words(mistake: Mistake, run_folder: Path) -> None:
    code, error = ask(mistake)
    assert code == mistake.code
    told = answer_in(error)
    assert len(told.splitlines()) <= 8, told
    assert [part for part in mistake.says if not any(one in told for one in part.split("|"))] == [], told
    assert not re.search(r"NestedArg|Namespace\(|Traceback|usage:|Union|typing\.|<class|Subtypes", error)
    assert [str(path) for path in Path("runs").rglob("*")] == []


def test_a_failure_nobody_foresaw_leads_to_its_traceback(run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("lightning_modules.preference.PreferenceModule.training_step", lambda *_: vars()["nothing"])
    code, error = ask(Mistake("fault", "", ()))
    told = answer_in(error)
    assert code == 1
    assert "KeyError: 'nothing'" in told
    assert "test_mistakes.py, line" in told
    assert "--debug" in told
    assert len(told.splitlines()) <= 8
    (file,) = tmp_path.glob("prefscope-*.txt")
    assert file.name in told
    assert "Traceback" in file.read_text()
    with pytest.raises(KeyError):
        ask(Mistake("fault", "--debug", ()))


def test_full_memory_says_what_to_lower(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of 4 GiB")

    monkeypatch.setattr("lightning_modules.preference.PreferenceModule.training_step", fail)
    code, error = ask(Mistake("memory", "", ()))
    assert code == 1
    assert "Lower --data.max_tokens_per_batch" in error
    assert [str(path) for path in Path("runs").rglob("*")] == []


def test_a_run_that_has_taken_a_step_keeps_its_folder(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_modules.preference import PreferenceModule

    step = PreferenceModule.training_step

    def fail_second(module: PreferenceModule, *args: Any) -> Any:
        if module.global_step:
            raise ValueError("expected nothing more, got a second step. Stop.")
        return step(module, *args)

    monkeypatch.setattr(PreferenceModule, "training_step", fail_second)
    code, error = ask(Mistake("later", "", ()))
    assert (code, error.splitlines()[-1]) == (1, "error: expected nothing more, got a second step. Stop.")
    assert [path.name for path in Path("runs").glob("*/version_0/config.yaml")] == ["config.yaml"]


def test_the_page_shows_every_mistake() -> None:
    page = (Path(__file__).parent.parent / "docs/mistakes.md").read_text()
    assert [mistake.name for mistake in MISTAKES if f"**{title(mistake)}**" not in page] == []
