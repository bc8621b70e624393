"""Forks continue the run that they come from, to the bit, and leave it alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from advice.command import advice_folder
from advice.forks import Forks, watches
from advice.origin import Origin, checkpoints_of, find_origin
from advice.settings import Config
from tests.advice.rig import LAST, ask, digest, fit
from tests.test_resume import differences


def state_of(path: Path) -> dict[str, Any]:
    """What a step leaves: weights, optimizer, loops and positions; callbacks differ, and so does the folder."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return {key: value for key, value in state.items() if key != "callbacks"}


def forked(run: Path, folder: Path, begin: int, until: int) -> Path:
    """The checkpoint of an unchanged fork."""
    forks = Forks(find_origin(run, begin), folder, fit)
    forks.go("control", forks.origin.config, until, [begin, until], forks.start())
    return Path(json.loads((folder / "control" / "state.json").read_text())["checkpoint"])


@pytest.mark.parametrize(("begin", "until"), [(0, 4), (4, 12), (6, 8)], ids=["from the start", "checkpoint", "replayed to"])
def test_the_control_takes_the_runs_own_steps_to_the_bit(run_folder: Path, tmp_path: Path, begin: int, until: int) -> None:
    ours = state_of(forked(run_folder, tmp_path, begin, until))
    theirs = state_of(checkpoints_of(run_folder)[until])
    assert ours["global_step"] == until
    for key in ("state_dict", "optimizer_states", "global_step"):
        assert list(differences(ours[key], theirs[key])) == []


def test_looking_changes_nothing(run_folder: Path, tmp_path: Path) -> None:
    """Reading at every step of a fork leaves the same weights as reading at none."""
    origin = find_origin(run_folder, 4)
    states = []
    for name, at in (("often", range(4, 9)), ("never", ())):
        forks = Forks(origin, tmp_path / name, fit)
        forks.go("control", origin.config, 8, list(at), forks.start())
        states.append(state_of(Path(json.loads((tmp_path / name / "control" / "state.json").read_text())["checkpoint"])))
    assert list(differences(states[0]["state_dict"], states[1]["state_dict"])) == []


def test_nothing_in_the_run_is_touched_and_an_answer_is_beside_it(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "experiment" / "version_0", symlinks=True))
    before = digest(run)
    answer = ask(run, "--from", 4, "--steps", 4, "--remedies", "lower_rate,dpop,stop_here")
    assert digest(run) == before
    written = json.loads((run.parent / "advice_version_0" / "from_4_steps_4" / "advice.json").read_text())
    assert written["sentence"] == answer.sentence
    assert {row["remedy"] for row in written["rows"]} == {"lower_rate", "dpop", "stop_here"}


def test_a_trial_that_was_killed_goes_on_where_it_was(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "experiment" / "version_0", symlinks=True))
    asked: list[str] = []

    def killed_at(number: int) -> Any:
        def one(path: Path, config: Config) -> None:
            asked.append(path.parent.name)
            if len(asked) == number:
                raise KeyboardInterrupt
            fit(path, config)

        return one

    options = ("--from", 4, "--steps", 4, "--remedies", "lower_rate,dpop,stop_here")
    with pytest.raises(KeyboardInterrupt):
        ask(run, *options, fit=killed_at(4))
    assert asked == ["control", "control", "lower_rate", "dpop"], "the control alone until it is known what a step costs"
    asked.clear()
    first = ask(run, *options, fit=killed_at(0))
    assert asked == ["dpop"]
    asked.clear()
    assert ask(run, *options, fit=killed_at(0)).sentence == first.sentence
    assert asked == []


def test_the_fork_is_at_the_checkpoint_before_the_first_warning(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run", symlinks=True))

    def origin(*rows: dict[str, Any]) -> Origin:
        (run / "diagnostics" / "alarms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return find_origin(run, ahead=4)

    notice = {"step": 5, "property": "drastic_drop", "message": "", "level": "notice", "since": 5}
    warning = {"step": 11, "property": "suppression", "message": "", "level": "warning", "since": 9, "probability": 0.7}
    old = {"step": 10, "property": "suppression", "message": "", "since": 8}
    assert (origin(notice).warning, origin(notice).step) == (None, 8), "as far back as a fork is long"
    assert origin(notice, warning).step == 8
    assert origin(old).step == 4, "the checkpoint of the step at which it showed first is on the way already"
    assert origin({**old, "since": 3}).step == 0
    assert (origin({**old, "since": 3}).checkpoint, origin().last_step) == (None, LAST)


def test_what_acts_on_a_run_stays_in_its_forks() -> None:
    acting = ["callbacks.control.adaptive_beta.AdaptiveBeta", "lightning.pytorch.callbacks.EMAWeightAveraging"]
    looking = [
        "callbacks.diagnostics.likelihood.LikelihoodMonitor",
        "callbacks.saving.policy_export.PolicyExport",
        "callbacks.alarms.property_alarm.PropertyAlarm",
        "lightning.pytorch.callbacks.TQDMProgressBar",
        "lightning.pytorch.callbacks.ModelCheckpoint",
    ]
    assert [watches({"class_path": path}) for path in (*acting, *looking)] == [False] * 2 + [True] * 5


def test_advice_lies_beside_the_run_and_is_no_version(run_folder: Path) -> None:
    folder = advice_folder(find_origin(run_folder, 4), 20)
    assert folder == run_folder.parent / "advice_version_0" / "from_4_steps_20"
    assert not folder.parent.name.startswith("version_"), "loggers count versions by that name"
