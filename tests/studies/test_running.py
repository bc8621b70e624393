"""The engine: whole runs stay, cut ones are made anew, a failed one is told and the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from studies import __main__, running, study
from studies.__main__ import levels
from studies.running import make
from studies.study import Complete, Level, Study
from studies.timing import expected_seconds, note_seconds, seconds_of, total
from train import main as train


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(study, "RUNS", tmp_path)
    cheap = ("--model.policy.width", "8", "--data.num_seeds", "1", "--trainer.max_steps", "2", "--trainer.callbacks", "null")
    ledger = ("--trainer.callbacks+", "callbacks.diagnostics.toy_ledger.ToyLedger", "--trainer.callbacks.every_n_steps", "1")
    methods = {
        "bad": Level("bad", ("--model.loss.beta", "-1")),
        "unread": Level("unread", ("--no_such", "1")),
        "good": Level("good"),
    }
    return Study("tiny", "Tiny", {"method": methods}, Complete(rows="toy", step=2), "toy_dpo", (*cheap, *ledger))


def test_what_fails_is_told_and_the_others_are_made(tiny: Study, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tiny.cells[2].folder / "diagnostics" / "toy.jsonl"
    cut.parent.mkdir(parents=True)
    cut.write_text('{"step": 1}\n')
    failures = make(tiny.cells)
    assert [line.split(":")[0] for line in failures] == ["bad", "unread"]
    assert "beta" in failures[0]
    assert tiny.cells[2].is_complete
    assert '{"step": 1}\n' not in cut.read_text()
    assert seconds_of(tiny.cells[2])
    assert "toy_dpo" in (tiny.cells[2].folder.parent / running.OUTPUT).read_text()
    # What a run prints stays out of the engine's own output.
    assert "python train.py" not in capsys.readouterr().out


def test_a_whole_run_is_not_made_again(tiny: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def pretend(command: Sequence[str], output: Path) -> None:
        made.append(output.parent.name)
        (output.parent / "version_0" / "diagnostics").mkdir(parents=True)
        (output.parent / "version_0" / "diagnostics" / "toy.jsonl").write_text('{"step": 2}\n')

    monkeypatch.setattr(running, "_train", pretend)
    assert make(tiny.cells[:2]) == make(tiny.cells) == []
    assert made == ["bad", "unread", "good"]


def test_what_the_page_does_not_read_is_not_made(tiny: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked right before each run: the runs before it may have decided."""
    made: list[str] = []

    def pretend(cell: study.Cell) -> str:
        made.append(cell.name)
        return cell.name

    monkeypatch.setattr(running, "_make_one", pretend)
    monkeypatch.setattr(study.Cell, "is_needed", property(lambda cell: cell.name != "unread" or "bad" not in made))
    assert make(tiny.cells) == ["bad", "good"]
    assert made == ["bad", "good"]


def test_a_signal_ends_the_study(tiny: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(command: Sequence[str], output: Path) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(running, "_train", stopped)
    with pytest.raises(SystemExit, match="143"):
        make(tiny.cells)


def test_a_run_whose_start_is_missing_is_not_made(tiny: Study) -> None:
    levels = {"dpo": Level("dpo"), "rto": Level("rto", ("--x", "{cell method=dpo}/policy"))}
    [line] = make(Study("tiny", "Tiny", {"method": levels}, Complete(path="policy"), "toy_dpo").cells[1:])
    assert line == "rto: not made, because it starts from dpo, which is not complete."


def test_the_rest_takes_what_the_same_run_took_with_other_seeds(tiny: Study) -> None:
    grid = {"seed": {str(n): Level(str(n)) for n in range(3)}, "method": {name: Level(name) for name in ("dpo", "ppo", "new")}}
    whole = Study("tiny", "Tiny", grid, Complete(path="policy"), "toy_dpo")
    assert expected_seconds(whole, whole.cells) == [None] * 9
    for cell, seconds in zip(whole.cells[:2], (10.0, 90.0), strict=True):
        (cell.folder / "policy").mkdir(parents=True)
        note_seconds(cell, seconds)
    assert expected_seconds(whole, whole.cells[3:6]) == [10.0, 90.0, 50.0]
    assert [total([10.0, 90.0, 50.0]), total([3600.0, 60.0]), total([1.0, None]), total([])] == [
        *("2 min 30 s", "1 h 01 min", "unknown", "-"),
    ]


def test_only_names_levels() -> None:
    assert levels(["seed=0,1", "method=dpo"]) == {"seed": ["0", "1"], "method": ["dpo"]}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        levels(["seed"])


def test_the_commands_of_what_is_missing(tiny: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(__main__, "load_study", lambda name, is_quick: tiny)
    __main__.main(["run", "tiny", "--only", "method=good", "--dry-run"])
    [line] = capsys.readouterr().out.splitlines()
    words = line.split()
    assert words[:2] == ["python", "train.py"]
    # The command is one that train.py reads.
    with pytest.raises(SystemExit, match="0"):
        train([*words[2:], "--print_config"])
