"""How likely harm is: against a model small enough to be counted by hand, and the calibration that is shipped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from callbacks.alarms import calibration as calibrations
from callbacks.alarms.calibration import Calibration, Setting, shipped
from callbacks.alarms.features import FEATURES
from callbacks.alarms.harm import HarmWatch, Judgement, message
from tests.callbacks.alarms.test_features import BY_HAND, FIRST, LATEST

NUMBER = len(FEATURES)
HERE = Setting(1_000_000, 100, "DPOLoss")
SMALL = Calibration(
    weights=(2.0, *(0.0,) * (NUMBER - 1)),
    intercept=-1.0,
    probability_of=(2.0, 0.5),
    threshold=-0.85,
    wrong=(-0.9, 0.0, 1.0),
    fine=(-1.0, -1.0, -0.8),
    centre=(0.0,) * NUMBER,
    precision=tuple(map(tuple, np.eye(NUMBER).tolist())),
    limit=2.0,
    parameters=(900_000, 2_000_000),
    vocabulary=(76, 300),
    objectives=("DPOLoss",),
    runs={"a": (3, 1), "b": (0, 2)},
)


def judged(watch: HarmWatch, step: int, readings: dict[str, float], setting: Setting = HERE) -> Judgement:
    watch.hear(readings)
    judgement = watch.judge(step, setting)
    assert judgement is not None
    return judgement


def begun() -> HarmWatch:
    watch = HarmWatch(SMALL)
    watch.hear(FIRST)
    return watch


def test_the_first_reading_is_the_start_and_says_nothing() -> None:
    watch = begun()
    assert watch.judge(0, HERE) is None
    assert watch.verdict() == "not judged: no reading of the bank came after the first"


def test_score_and_probability_are_those_of_the_formula() -> None:
    judgement = judged(begun(), 5, LATEST)
    score = 2.0 * math.log1p(BY_HAND["others_fall"]) - 1.0
    assert judgement.score == pytest.approx(score)
    assert judgement.probability == pytest.approx(1 / (1 + math.exp(-(2 * score + 0.5))))
    assert judgement.values == {name: pytest.approx(value) for name, value in BY_HAND.items()}
    assert judgement.property == "drastic_drop"
    assert judgement.outside == ()


def test_a_run_is_warned_of_once_and_its_score_never_falls() -> None:
    watch = begun()
    first, again, calm = judged(watch, 5, LATEST), judged(watch, 10, LATEST), judged(watch, 15, FIRST)
    assert [one.is_warning for one in (first, again, calm)] == [True, False, False]
    assert calm.score == first.score
    assert watch.verdict() == "warned at step 5"


def test_below_the_threshold_the_verdict_says_how_near_it_came() -> None:
    watch = HarmWatch(replace(SMALL, threshold=9.0))
    watch.hear(FIRST)
    judgement = judged(watch, 5, LATEST)
    assert not judgement.is_warning
    assert watch.verdict() == f"no warning: at most {judgement.probability:.0%} likely to end worse (step 5)"


def test_what_is_lacking_is_said() -> None:
    watch = HarmWatch(SMALL)
    for readings in (FIRST, LATEST):
        watch.hear({name: value for name, value in readings.items() if not name.startswith("mass/")})
    assert watch.judge(5, HERE) is None
    assert watch.verdict() == "not judged: mass/chosen/moved, mass/rejected/moved were not measured"


def test_a_reading_is_told_once() -> None:
    watch = begun()
    assert set(watch.new_features().values()) == {0.0}
    assert watch.new_features() == {}, "a step without a reading of the bank is no reading"
    watch.hear({"train/loss": 1.0})
    assert watch.new_features() == {}
    watch.hear(LATEST)
    assert watch.new_features() == {name: pytest.approx(value) for name, value in BY_HAND.items()}


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_watch_that_is_saved_and_restored_says_the_same(cut: int) -> None:
    series = [LATEST, FIRST, LATEST]
    whole, before, after = begun(), begun(), HarmWatch(SMALL)
    expected = [judged(whole, step, readings) for step, readings in enumerate(series, start=1)]
    found = [judged(before, step, readings) for step, readings in enumerate(series[:cut], start=1)]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    found += [judged(after, step, readings) for step, readings in enumerate(series[cut:], start=cut + 1)]
    assert found == expected
    assert after.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (Setting(300_001, 300, "DPOLoss"), ()),
        (Setting(7_000_000_000, 100, "DPOLoss"), ("7,000,000,000 parameters (900,000 to 2,000,000)",)),
        (Setting(1_000_000, 151_936, "DPOLoss"), ("151,936 tokens of vocabulary (76 to 300)",)),
        (Setting(1_000_000, None, "KTOLoss"), ("KTOLoss",)),
    ],
)
def test_what_is_outside_of_the_calibration_is_named(setting: Setting, said: tuple[str, ...]) -> None:
    judgement = judged(begun(), 5, LATEST, setting)
    assert judgement.outside == said
    assert ("Outside what it was calibrated on" in message(judgement, SMALL)) == bool(said)


def test_a_reading_far_from_all_others_is_outside() -> None:
    far = LATEST | {"likelihood/bank/other_chosen/change_per_token": -50.0}
    [said] = judged(begun(), 5, far).outside
    assert said.startswith("readings ")


def test_the_message_counts_held_out_runs() -> None:
    judgement = judged(begun(), 5, LATEST)
    text = message(judgement, SMALL)
    assert f"{judgement.probability:.0%} likely to end worse than it began" in text
    assert "Of the 6 runs that read most like it 3 did; 1 of 3 that ended well read as badly." in text
    assert "other prompts' chosen answers fell by 0.10 of their spread" in text
    assert "6 runs of 2 families" in text


def test_judged_answers_bring_a_calibration_of_their_own() -> None:
    watch = HarmWatch()
    watch.hear(FIRST)
    assert watch.calibration == shipped()
    watch.hear({"task/accuracy": 0.7, "task/problems": 200.0})
    assert watch.calibration == shipped(is_judged=True) != shipped()
    calm = judged(watch, 10, FIRST | {"task/accuracy": 0.69})
    # What the likelihoods do not show, answers do.
    worse = judged(watch, 20, FIRST | {"task/accuracy": 0.02})
    assert (calm.is_warning, worse.is_warning, worse.property) == (False, True, "worse_answers")


@pytest.mark.parametrize("is_judged", [False, True])
def test_the_shipped_calibration_keeps_false_alarms_and_grows_with_every_feature(is_judged: bool) -> None:
    model = shipped(is_judged)
    assert sum(score >= model.threshold for score in model.fine) <= 0.05 * len(model.fine)
    assert min(model.weights) >= 0 < max(model.weights)
    assert model.probability_of[0] > 0
    assert model.probability(model.threshold) > model.probability(model.intercept)
    assert len(model.fine) + len(model.wrong) == model.num_runs
    assert model.score([0.0] * NUMBER) < model.threshold, "a run that has not moved is not warned of"


def test_a_calibration_of_other_features_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = json.loads(calibrations.FILE.read_text(encoding="utf-8")) | {"features": ["others_fall"]}
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(calibrations, "FILE", path)
    with pytest.raises(ValueError, match="python -m studies page verdict"):
        shipped.__wrapped__(False)
