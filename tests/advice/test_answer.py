"""The table, the sentence and the command; what the report shows of them; and refusals in words."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from advice.answer import answered
from advice.comparison import Key, differences
from advice.measures import Values
from advice.origin import Origin, find_origin
from advice.remedies import all_remedies
from advice.trial import Outcome
from reports.page import report_page
from reports.runs import load_run
from reports.sections.advice import advice_html
from tests import tiny
from tests.advice.rig import LAST, ask, fit
from tests.reports.made_up import language_rows, write_run

KNOWN = all_remedies()


def outcome(tried: dict[str, Sequence[float]], control: Sequence[float], untried: dict[str, str]) -> Outcome:
    """A trial of whole forks, from right and wrong answers."""
    values: dict[Key, Values] = {Key(name, 20): {"accuracy": list(of)} for name, of in tried.items()}
    found = differences(values, {20: {"accuracy": list(control)}})
    return Outcome(found, dict.fromkeys(tried, 20), untried, 60.0, ["accuracy"])


def shares(*right: int, of: int = 100) -> list[list[float]]:
    return [[1.0] * number + [0.0] * (of - number) for number in right]


def test_what_helps_is_said_with_its_interval_and_a_command_that_trains(run_folder: Path, tmp_path: Path) -> None:
    origin = find_origin(run_folder, 4)
    better, same, control, stopped = shares(60, 40, 40, 50)
    said = answered(
        origin,
        4,
        outcome({"dpop": better, "lower_rate": same, "stop_here": stopped}, control, {"on_policy": "no judge"}),
        KNOWN,
        {},
        tmp_path,
    )
    assert said.sentence.startswith("DPOP, penalty 5: +20.0 [")
    assert "points of held-out problems solved over going on; two of three remedies helped beyond noise." in said.sentence
    assert "Going on unchanged loses 10.0 points of held-out problems solved." in said.sentence
    assert said.command is not None
    words = shlex.split(said.command)
    assert words[:3] == ["python", "train.py", "fit"]
    config = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
    assert config["model"]["init_args"]["loss"]["class_path"].endswith("DPOPLoss")
    assert (config["trainer"]["max_steps"], config["ckpt_path"]) == (LAST, None)
    assert words[words.index("--ckpt_path") + 1] == str(origin.checkpoint)
    written = json.loads((tmp_path / "advice.json").read_text())
    assert [row["remedy"] for row in written["rows"]] == ["dpop", "stop_here", "lower_rate"]
    assert written["untried"] == [{"title": KNOWN["on_policy"].title, "reason": "no judge"}]


def test_within_noise_nothing_is_recommended(run_folder: Path, tmp_path: Path) -> None:
    near, control = shares(41, 40)
    said = answered(find_origin(run_folder, 4), 4, outcome({"dpop": near}, control, {}), KNOWN, {}, tmp_path)
    assert said.sentence.startswith("None helped beyond noise over 4 steps from step 4; nearest came DPOP, penalty 5: +1.0 [")
    assert (said.recommended, said.command) == (None, None), "the run has ended: there is nothing to go on with"
    unfinished = Origin(**{**vars(find_origin(run_folder, 4)), "last_step": 8, "has_ended": False})
    said = answered(unfinished, 4, outcome({"dpop": near}, control, {}), KNOWN, {}, tmp_path)
    last = run_folder / "checkpoints" / "last.ckpt"
    assert said.command == f"python train.py fit --config {run_folder / 'config.yaml'} --ckpt_path {last}"


def test_the_next_command_works_as_it_stands(run_folder: Path, tmp_path: Path) -> None:
    """Stopping exports the policy of that step; a remedy trains on from it to the run's end."""
    control, better = shares(40, 60)
    for remedy, end in (("stop_here", 4), ("lower_rate", LAST)):
        said = answered(find_origin(run_folder, 4), 4, outcome({remedy: better}, control, {}), KNOWN, {}, tmp_path)
        words = shlex.split(said.command or "")[3:]
        config = Path(words[words.index("--config") + 1])
        content = yaml.safe_load(config.read_text())
        for logger in content["trainer"]["logger"]:
            logger["init_args"] |= {"save_dir": str(tmp_path), "name": f"after_{remedy}"}
        content["ckpt_path"] = words[words.index("--ckpt_path") + 1]
        config.write_text(yaml.safe_dump(content))
        fit(config, content)
        folder = tmp_path / f"after_{remedy}" / "version_0"
        assert (folder / "policy" / "model.safetensors").is_file()
        if remedy == "lower_rate":
            state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
            assert state["global_step"] == end
            assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.01 / 3)


def test_the_report_shows_advice_where_there_is_some(tmp_path: Path) -> None:
    run = write_run(tmp_path / "made_up" / "version_0", language_rows())
    assert advice_html([load_run(run)]) == ""
    folder = tmp_path / "made_up" / "advice_version_0" / "from_4_steps_20"
    folder.mkdir(parents=True)
    better, control = shares(60, 40)
    origin = Origin(
        run, {"trainer": {"max_steps": 40}, "model": {"init_args": {"optimizer": {"init_args": {"lr": 1.0}}}}}, 4, None, 0, None, 40
    )
    said = answered(origin, 20, outcome({"lower_rate": better}, control, {"on_policy": "no judge"}), KNOWN, {}, folder)
    page = report_page([load_run(run)])
    assert '<a href="#advice">What would help</a>' in page
    assert "made_up/version_0, from step 4:" in page
    assert said.sentence.split(";")[0] in page
    assert "not tried: no judge" in page


def test_a_checkpoint_of_another_trainer_is_forked_from_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "checkpoint-30"):
        tiny.write_model(tmp_path / name)
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text(
        json.dumps({"log_history": [{"learning_rate": 2e-3}, {"learning_rate": 1e-3}]})
    )
    tiny.write_pairs(tmp_path / "pairs.jsonl", 60)
    options = (
        "--reference",
        "base",
        "--pairs",
        "pairs.jsonl",
        "--steps",
        2,
        "--remedies",
        "lower_rate,stop_here",
        "--data.batch_size",
        4,
    )
    answer = ask(Path("checkpoint-30"), *options, "--trainer.accelerator=cpu")
    assert answer.sentence.endswith("Forked from weights alone, without optimizer state or the data's order: weaker evidence.")
    folder = Path("runs") / "advice_checkpoint-30" / "from_0_steps_2"
    config = yaml.safe_load((folder / "control" / "to_step_2.yaml").read_text())
    arguments = config["model"]["init_args"]
    assert arguments["optimizer"]["init_args"]["lr"] == 2e-3
    assert arguments["policy"]["init_args"]["path"] == "checkpoint-30"
    assert arguments["reference"]["init_args"]["path"] == "base"
    with pytest.raises(ValueError, match=r"expected --reference, because checkpoint-30 does not name"):
        ask(Path("checkpoint-30"), "--pairs", "pairs.jsonl")


def test_what_cannot_be_advised_is_refused_in_words(run_folder: Path, tmp_path: Path) -> None:
    def refused(*options: object, run: Path = run_folder) -> str:
        with pytest.raises(ValueError, match="expected") as caught:
            ask(run, *options)
        return str(caught.value)

    assert f"Did you mean {run_folder}?" in refused(run=run_folder.parent)
    assert "or another trainer's checkpoint" in refused(run=tmp_path)
    assert refused("--from", 40) == f"expected --from between 0 and {LAST}, as far as {run_folder} has come, got 40."
    assert "got 0" in refused("--steps", 0)
    assert "--neutral-text" in refused("--neutral-text", "nowhere.txt")
    run = Path(shutil.copytree(run_folder, tmp_path / "validated", symlinks=True))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("# python train.py fit", "# python train.py validate"))
    assert "expected the folder of a training, got one of validate" in refused(run=run)


def test_too_little_time_names_the_nearest_that_does(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "experiment" / "version_0", symlinks=True))
    options = ("--from", 8, "--steps", 2, "--remedies", "lower_rate,dpop")
    with pytest.raises(
        ValueError,
        match=r"expected time for 2 remedies, got --budget-minutes 0\.001: .* The nearest that does: --budget-minutes 1;",
    ):
        ask(run, *options, "--budget-minutes", 0.001)
    assert ask(run, *options, "--budget-minutes", 1).table.row_count == 2, "what the control took is not taken again"


def test_a_measure_that_should_fall_is_said_by_what_became_of_it(run_folder: Path, tmp_path: Path) -> None:
    values: dict[Key, Values] = {Key("dpop", 20): {"off_data_mass": [0.1] * 50 + [0.12] * 50}}
    values[Key("stop_here", 20)] = {"off_data_mass": [0.2] * 50 + [0.21] * 50}
    found = differences(values, {20: {"off_data_mass": [0.3] * 50 + [0.31] * 50}})
    tried = Outcome(found, dict.fromkeys(("dpop", "stop_here"), 20), {}, 60.0, ["off_data_mass"])
    said = answered(find_origin(run_folder, 4), 4, tried, KNOWN, {}, tmp_path).sentence
    assert said.startswith("DPOP, penalty 5: +19.5 [")
    assert "points less mass off everything known over going on" in said
    assert said.endswith("Going on unchanged adds 10.0 points to mass off everything known.")
