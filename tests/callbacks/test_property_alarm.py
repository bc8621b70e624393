"""The alarm in a run: it hears what the others read, says it once, survives a resumption, and stops a run with a checkpoint."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch.optim import SGD

from callbacks.alarms.calibration import shipped
from callbacks.alarms.conditions import Condition
from callbacks.alarms.features import FEATURES, MIN_SPREAD
from callbacks.alarms.harm import HarmWatch
from callbacks.alarms.property_alarm import PropertyAlarm
from callbacks.alarms.rules import AlarmRule
from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.mass_gains import MassMonitor
from callbacks.saving.checkpoint import RunCheckpoint
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.policy import PolicySpec
from lightning_modules.preference import PreferenceModule
from run_folder.rows import read_rows, tracks_of
from tests.callbacks.rig import PAIRS, BigramSpec, InterruptAt, Interrupted, ProbedPairs, events, fit
from tests.lightning_modules.stubs import TINY

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

REJECTED = "likelihood/bank/rejected/change"
RULES = (
    AlarmRule(
        property="drastic_drop",
        conditions=(Condition(metric=REJECTED, window=1, below=-0.05),),
        says=("From step {since} rejected fell by {likelihood/bank/rejected/change:.2f} nats.", "Lower the learning rate."),
        patience=2,
    ),
    # What the module logs is heard too.
    AlarmRule(property="learning", conditions=(Condition(metric="train/rewards/margins", window=1, above=0.0),), says=("{since}",)),
)
MICROBATCHES = [[0, 1, 2], [3, 4]]
EPOCHS = 3


def module(folder: Path, lr: float = 0.3, policy: PolicySpec | None = None) -> PreferenceModule:
    return PreferenceModule(policy or BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=lr), cache_dir=str(folder / "cache"))


def run(folder: Path, *others: Callback, stop: bool = False, **options: Any) -> tuple[Path, PropertyAlarm, str]:
    alarm, printed = PropertyAlarm(stop=stop, rules=RULES), io.StringIO()
    alarm._console = Console(file=printed, width=120)
    data = ProbedPairs(PAIRS, MICROBATCHES, 1)
    trainer = fit(module(folder), [LikelihoodMonitor(1, 1), alarm, *others], folder, data=data, max_epochs=EPOCHS, **options)
    return Path(trainer.log_dir or ""), alarm, printed.getvalue()


def test_it_says_once_with_the_numbers_that_the_monitor_wrote(tmp_path: Path) -> None:
    folder, _, printed = run(tmp_path)
    track = dict(tracks_of(folder)[REJECTED])
    below = [step for step in sorted(track) if track[step] < -0.05]
    drop = next(row for row in read_rows(folder, "alarms") if row["property"] == "drastic_drop")
    assert drop["since"] == below[0]
    assert drop["step"] == below[1]
    assert drop["numbers"] == {REJECTED: track[below[1]]}
    assert drop["message"] == f"From step {below[0]} rejected fell by {track[below[1]]:.2f} nats. Lower the learning rate."
    assert len(below) > 3, "it had more occasions than one"
    assert printed.count("Lower the learning rate.") == 1
    assert f"drastic drop, step {below[1]}" in printed


def test_what_the_module_logged_is_heard_at_its_own_steps(tmp_path: Path) -> None:
    folder, _, _ = run(tmp_path)
    [row] = [row for row in read_rows(folder, "alarms") if row["property"] == "learning"]
    assert set(row["numbers"]) == {"train/rewards/margins"}


class RewardOfRollouts(Callback):
    """Logs a reward in every second step, as a module does whose rollout serves two."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % 2:
            trainer.callback_metrics["objective/rlhf_reward"] = torch.tensor(1.0)


def test_what_was_logged_once_is_one_reading(tmp_path: Path) -> None:
    alarm = PropertyAlarm()
    fit(module(tmp_path), [RewardOfRollouts(), alarm], tmp_path, data=ProbedPairs(PAIRS, MICROBATCHES, 1), max_epochs=EPOCHS)
    history = alarm.state_dict()["histories"]["objective/rlhf_reward"]
    assert history["recent"] == [1.0] * 3, "six steps of three rollouts"


def test_tensorboard_has_the_text(tmp_path: Path) -> None:
    alarm = PropertyAlarm(rules=RULES)
    trainer = fit(
        module(tmp_path), [LikelihoodMonitor(1, 1), alarm], tmp_path, data=ProbedPairs(PAIRS, MICROBATCHES, 1), max_epochs=EPOCHS
    )
    [event] = events(trainer).Tensors("notices/drastic_drop/text_summary")
    assert b"Lower the learning rate." in event.tensor_proto.string_val[0]


def test_a_run_that_shows_nothing_says_nothing(tmp_path: Path) -> None:
    trainer = fit(module(tmp_path, lr=0.0), [LikelihoodMonitor(1, 1), PropertyAlarm(rules=RULES)], tmp_path)
    assert read_rows(Path(trainer.log_dir or ""), "alarms") == []


def test_what_was_not_measured_is_not_judged(tmp_path: Path) -> None:
    alarm, printed = PropertyAlarm(), io.StringIO()
    alarm._console = Console(file=printed, width=120)
    trainer = fit(module(tmp_path, lr=0.0), [LikelihoodMonitor(1, 1), alarm], tmp_path)
    [row] = read_rows(Path(trainer.log_dir or ""), "judged")
    assert row["verdicts"]["dispersion"].startswith("not judged: harm/off_data_growth was not measured")
    assert row["verdicts"]["harm"].startswith("not judged: degradation/bank/quadrant/both_down, ")
    assert set(row["verdicts"]) == {"drastic_drop", "suppression", "dispersion", "harm"}, "no rewards, no business of theirs"
    assert "Dispersion: not judged" in printed.getvalue()
    assert "Harm: not judged" in printed.getvalue()


def test_a_run_is_warned_of_with_what_its_own_rows_say(tmp_path: Path) -> None:
    """Features of the rows `harm` are those of the other monitors' rows, and the warning comes where the score says so."""
    monitors = [LikelihoodMonitor(1, 1), DegradationMonitor(1, 1), DispersionMonitor(1, 1), MassMonitor(1)]
    alarm, printed = PropertyAlarm(), io.StringIO()
    alarm._console = Console(file=printed, width=120)
    low = replace(shipped(), threshold=shipped().score([0.0] * len(FEATURES)) + 1e-3)
    alarm._harm = HarmWatch(low)
    data = ProbedPairs(PAIRS, MICROBATCHES, 1)
    trainer = fit(module(tmp_path, policy=TINY), [*monitors, alarm], tmp_path, data=data, max_epochs=EPOCHS)
    folder = Path(trainer.log_dir or "")
    tracks = {name: dict(track) for name, track in tracks_of(folder).items()}
    for row in read_rows(folder, "harm"):
        step = row["step"]
        assert row["harm/chosen_moved"] == tracks["mass/chosen/moved"][step]
        others = -tracks["likelihood/bank/other_chosen/change_per_token"][step]
        spread = tracks["likelihood/bank/other_chosen/logp_per_token_spread"][0]
        assert row["harm/others_fall"] == pytest.approx(max(others / max(spread, MIN_SPREAD), 0.0))
    scores = tracks["harm/score"]
    [warning] = [row for row in read_rows(folder, "alarms") if row["level"] == "warning"]
    assert warning["step"] == min(step for step, score in scores.items() if score >= low.threshold)
    assert warning["probability"] == tracks["harm/probability"][warning["step"]]
    assert sum(warning["contributions"].values()) + low.intercept == pytest.approx(scores[warning["step"]])
    # Of a few thousand parameters: smaller than anything that was calibrated on.
    assert any("parameters" in said for said in warning["outside"])
    assert printed.getvalue().count("likely to end worse") == 1
    assert read_rows(folder, "judged")[-1]["verdicts"]["harm"] == f"warned at step {warning['step']}"


# Ends of epochs: a fixed batch order stands in for the resumable loader.
@pytest.mark.parametrize("cut", [2, 4])
def test_a_resumed_run_says_what_is_left_to_say(tmp_path: Path, cut: int) -> None:
    whole, alarm, _ = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", RunCheckpoint(cut), InterruptAt(cut))
    [checkpoint] = (tmp_path / "cut").rglob("last.ckpt")
    resumed, again, _ = run(tmp_path / "cut", RunCheckpoint(cut), ckpt_path=str(checkpoint))
    said = [*read_rows(checkpoint.parents[1], "alarms"), *read_rows(resumed, "alarms")]
    assert said == read_rows(whole, "alarms")
    assert again.state_dict() == alarm.state_dict()


def test_stop_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    # A cadence that never comes: the checkpoint is the one of the end.
    folder, alarm, _ = run(tmp_path, RunCheckpoint(100), stop=True)
    [first, *_] = read_rows(folder, "alarms")
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == first["step"] < EPOCHS * len(MICROBATCHES)
    state = next(value for key, value in saved["callbacks"].items() if key.startswith("PropertyAlarm"))
    assert state == alarm.state_dict()
