"""Rules over hand-made series: when they hold, since when, once, and what they say."""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from callbacks.alarms.conditions import MAX_WINDOW, Condition, Histories, History
from callbacks.alarms.notices import KL_RATIO, NOTICES, PROPERTY_NOTICES, REINFORCEMENT_NOTICES
from callbacks.alarms.rules import AlarmRule, over_checkpoints
from callbacks.alarms.watch import Alarm, AlarmWatch
from lightning_modules import losses
from lightning_modules.losses.base import PreferenceLoss, SequenceLogps, incentives
from lightning_modules.losses.cal_dpo import CalDPOLoss
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.cpo import CPOLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.dpop import DPOPLoss
from lightning_modules.losses.sppo import SPPOLoss


def test_a_checkpoint_is_judged_on_one_reading_where_its_rule_compares_no_stretches() -> None:
    watch = AlarmWatch(over_checkpoints(PROPERTY_NOTICES))
    # The reference, then one checkpoint: 5% of the mass left what is known.
    watch.hear({"harm/off_data_growth": 0.0})
    watch.hear({"harm/off_data_growth": 0.05, "harm/chosen_fall": 0.3, "likelihood/bank/drop_share": 1.2})
    assert {alarm.property for alarm in watch.judge(500)} == {"suppression", "dispersion"}
    verdicts = watch.verdicts()
    assert verdicts["suppression"] == "shows from step 500"
    assert "not judged" in verdicts["drastic_drop"]
    calm = AlarmWatch(over_checkpoints(PROPERTY_NOTICES))
    calm.hear({"harm/off_data_growth": 0.0})
    assert calm.judge(500) == []
    assert calm.verdicts()["dispersion"] == "no sign by 1 of 2 rules; the rest not judged: harm/off_pair_growth was not measured"


def test_a_sign_that_waits_for_a_second_reading_is_no_all_clear() -> None:
    watch = AlarmWatch([AlarmRule(property="p", conditions=(Condition(metric="m", window=1, above=0.0),), says=("x",))])
    watch.hear({"m": 1.0})
    assert watch.judge(1) == []
    assert watch.verdicts() == {"p": "not judged: it shows at the last 1 of 2 readings that are needed"}
    watch.hear({"m": -1.0})
    watch.judge(2)
    assert watch.verdicts() == {"p": "no sign"}


def history(values: Sequence[float]) -> History:
    made = History(values[0])
    for value in values:
        made.add(value)
    return made


@pytest.mark.parametrize(
    ("of", "values", "expected"),
    [
        ("level", [1.0, 2.0, 4.0], 3.0),
        ("level", [1.0], None),
        ("change", [1.0, 2.0, 4.0], 2.0),
        # Its own first reading is no change yet.
        ("change", [1.0, 2.0], None),
        ("growth", [-2.0, 2.0, 4.0], 2.5),
        ("growth", [0.0, 2.0, 4.0], None),
        ("drift", [1.0, 2.0, 4.0, 8.0], 4.5),
        ("drift", [1.0, 2.0, 4.0], None),
    ],
)
def test_statistics_of_a_window_of_two(of: Any, values: list[float], expected: float | None) -> None:
    assert Condition(metric="m", of=of, above=0.0).value(history(values)) == expected


def test_a_share_of_the_readings_so_far_takes_the_place_of_a_shorter_window() -> None:
    drift = Condition(metric="m", of="drift", window=2, share=0.25, above=0.0)
    # Of a ramp the drift is as long as its window: two readings at first, a quarter of them later, eight at the most.
    lengths = {count: drift.value(history([float(n) for n in range(count)])) for count in (3, 4, 8, 12, 20, 32, 400)}
    assert lengths == {3: None, 4: 2.0, 8: 2.0, 12: 3.0, 20: 5.0, 32: 8.0, 400: 8.0}


@pytest.mark.parametrize("length", [4, 7, 16, 40])
def test_a_trend_is_kendalls_tau_in_its_standard_errors(length: int) -> None:
    values = torch.randn(length, generator=torch.Generator().manual_seed(length)).add(0.1 * torch.arange(length)).tolist()
    last = values[-16:]
    signs = (torch.tensor(last)[None, :] - torch.tensor(last)[:, None]).sign().triu()
    tau = float(signs.sum()) / math.comb(len(last), 2)
    error = math.sqrt(2 * (2 * len(last) + 5) / (9 * len(last) * (len(last) - 1)))
    trend = Condition(metric="m", of="trend", window=4, share=1.0, above=0.0)
    assert trend.value(history(values)) == pytest.approx(tau / error)
    assert trend.value(history(values[:3])) is None


def test_a_history_forgets_all_but_the_first_and_the_last_readings() -> None:
    long = history([float(n) for n in range(100)])
    assert long.first == 0.0
    assert long.recent == [float(n) for n in range(100 - 2 * MAX_WINDOW, 100)]
    assert Condition(metric="m", of="drift", window=MAX_WINDOW, above=0.0).value(long) == MAX_WINDOW


def test_bounds_are_exclusive_and_what_was_never_read_holds_nothing() -> None:
    histories = Histories(frozenset({"m"}))
    assert histories.add({"m": 1.0, "other": 2.0}) == {"m"}
    assert Condition(metric="m", window=1, above=0.9, below=1.1).holds(histories)
    assert not Condition(metric="m", window=1, above=1.0).holds(histories)
    assert not Condition(metric="m", window=1, below=1.0).holds(histories)
    assert not Condition(metric="other", window=1, above=0.0).holds(histories)
    assert histories.add({"m": math.nan}) == frozenset()


def test_mistaken_rules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected window in \[1, 8\], got 9"):
        Condition(metric="m", above=0.0, window=9)
    with pytest.raises(ValueError, match=r"expected window in \[4, 16\], got 2"):
        Condition(metric="m", above=0.0, of="trend")
    with pytest.raises(ValueError, match=r"expected share in \[0, 0.5\], got 0.6"):
        Condition(metric="m", above=0.0, share=0.6)
    with pytest.raises(ValueError, match="expected a bound for m"):
        Condition(metric="m")
    with pytest.raises(ValueError, match="expected conditions and patience >= 1 of the rule for p"):
        AlarmRule(property="p", conditions=(), says=())


RULE = AlarmRule(
    property="p",
    conditions=(Condition(metric="a", window=1, above=1.0), Condition(metric="b", of="change", window=1, below=-0.5)),
    says=("Since {since}: a is {a:.1f}.", "c is {c/d:.2f}.", "Try {advice:.3f}."),
    patience=2,
)


def alarms(watch: AlarmWatch, series: Sequence[tuple[int, dict[str, float]]]) -> list[Alarm]:
    found = []
    for step, readings in series:
        watch.hear(readings)
        found += watch.judge(step, lambda latest: {"advice": latest["a"] / 2})
    return found


SERIES: list[tuple[int, dict[str, float]]] = [
    (1, {"a": 2.0, "b": 0.0}),
    (2, {"a": 2.0, "b": -0.6}),
    # One judgement broke the row.
    (3, {"a": 0.5, "b": -0.7}),
    (4, {"a": 3.0}),
    # Nothing new of the rule's metrics: no judgement.
    (5, {"c/d": 0.25}),
    (6, {"b": -0.8}),
    (7, {"a": 4.0, "b": -0.9}),
]


def test_an_alarm_needs_all_conditions_in_a_row_and_comes_once() -> None:
    [alarm] = alarms(AlarmWatch([RULE]), SERIES)
    assert (alarm.step, alarm.since, alarm.property) == (6, 4, "p")
    assert alarm.numbers == {"a": 3.0, "b": -0.8}
    assert alarm.message == "Since 4: a is 3.0. c is 0.25. Try 1.500."


def test_what_showed_and_no_longer_does_is_said_so_and_since_when_it_did() -> None:
    watch = AlarmWatch([RULE])
    alarms(watch, SERIES[:6])
    assert watch.verdicts() == {"p": "shows from step 4"}, "not from step 6, at which it was said"
    alarms(watch, [(7, {"a": 0.0})])
    assert watch.verdicts() == {"p": "showed from step 4, no longer at the end"}


def test_a_sentence_without_its_numbers_is_left_out() -> None:
    watch = AlarmWatch([RULE])
    [alarm] = alarms(watch, [(step, {"a": 2.0, "b": -float(step)}) for step in range(4)])
    assert alarm.message == "Since 1: a is 2.0. Try 1.000."


def test_of_two_rules_for_a_property_the_first_to_fire_speaks() -> None:
    soon = AlarmRule(property="p", conditions=RULE.conditions[:1], says=("Soon.",), patience=1)
    found = alarms(AlarmWatch([RULE, soon]), SERIES)
    assert [(alarm.step, alarm.message) for alarm in found] == [(1, "Soon.")]


@pytest.mark.parametrize("cut", range(1, len(SERIES)))
def test_a_watch_that_is_saved_and_restored_says_the_same(cut: int) -> None:
    whole, before, after = AlarmWatch([RULE]), AlarmWatch([RULE]), AlarmWatch([RULE])
    expected = alarms(whole, SERIES)
    first = alarms(before, SERIES[:cut])
    after.load_state_dict(before.state_dict())
    assert first + alarms(after, SERIES[cut:]) == expected
    assert after.state_dict() == whole.state_dict()


def test_a_changed_rule_counts_anew_but_keeps_what_was_said() -> None:
    before = AlarmWatch([RULE])
    alarms(before, SERIES[:4])
    changed = AlarmRule(property="p", conditions=(Condition(metric="a", window=1, above=1.5),), says=("Now.",), patience=2)
    after = AlarmWatch([changed])
    after.load_state_dict(before.state_dict())
    assert [alarm.step for alarm in alarms(after, [*SERIES[4:], (8, {"a": 4.0})])] == [8]
    again = AlarmWatch([changed])
    again.load_state_dict(after.state_dict())
    assert alarms(again, SERIES) == []


def every_loss() -> list[PreferenceLoss]:
    """Each loss with its defaults. DPOP holds chosen below the reference alone, Cal-DPO and SPPO aim at values."""
    apart = (DPOPLoss, CalDPOLoss, SPPOLoss)
    for module in pkgutil.iter_modules(losses.__path__):
        importlib.import_module(f"{losses.__name__}.{module.name}")
    return [kind() for kind in PreferenceLoss.__subclasses__() if kind.__module__.startswith(losses.__name__) and kind not in apart]


def test_a_loss_that_says_it_is_logistic_pushes_by_its_margin_alone() -> None:
    """d_l over sigma(-margin) of random pairs is one number where `is_logistic`, and several elsewhere."""
    generator = torch.Generator().manual_seed(0)
    logps = (-20 * torch.rand(4, 12, generator=generator, dtype=torch.float64)).unbind()
    (short, long), scores = torch.randint(2, 9, (2, 12), generator=generator), torch.rand(2, 12, generator=generator)
    pairs = SequenceLogps(logps[0], logps[1], short, long, logps[2], logps[3], scores[0] + 1, scores[1])
    for loss in [*every_loss(), DPOPLoss(), CalDPOLoss(), SPPOLoss(), DPOLoss(label_smoothing=0.1), CalibratedLoss(loss=CPOLoss())]:
        _, chosen, rejected = loss(pairs)
        push = incentives(loss, pairs)[1] / (rejected - chosen).sigmoid()
        assert (bool(push.abs().max() > 0) and push.max() - push.min() < 1e-9) == loss.is_logistic, type(loss).__name__


@pytest.mark.parametrize("rule", NOTICES, ids=lambda rule: rule.property)
def test_a_notice_is_a_fact_since_a_step_with_no_claim_of_harm(rule: AlarmRule) -> None:
    text = rule.message(dict.fromkeys(rule.metrics() | rule.spoken(), 1.0), since=7)
    assert "since step 7" in text.lower()
    assert rule.level == "notice"
    assert not re.search("harm|worse|lower the|add a|stop", text.lower())


def ramp(metric: str, start: float, stop: float) -> list[dict[str, float]]:
    return [{metric: start + (stop - start) * n / 11} for n in range(12)]


@pytest.mark.parametrize(
    ("expected", "series"),
    [
        ("kl_blow_up", [ramp(KL_RATIO, 0.0, 3.0)]),
        ("reward_hacking", [ramp("objective/rlhf_reward", 0.0, 2.0), ramp("task/accuracy", 0.7, 0.4)]),
        ("lazy_likelihood", [ramp("lazy_likelihood/lift", 0.3, -0.3)]),
        # Good answers still rise.
        (None, [ramp("lazy_likelihood/lift", 0.3, 0.1)]),
        (None, [ramp(KL_RATIO, 0.0, 0.6), ramp("objective/rlhf_reward", 0.0, 2.0), ramp("task/accuracy", 0.5, 0.7)]),
        # The reward has stopped rising: whatever it is, the reward is not being hacked.
        (None, [ramp("objective/rlhf_reward", 2.0, 0.0), ramp("task/accuracy", 0.7, 0.4)]),
    ],
)
def test_notices_of_reinforcement(expected: str | None, series: list[list[dict[str, float]]]) -> None:
    watch = AlarmWatch(REINFORCEMENT_NOTICES)
    for step in range(len(series[0])):
        for part in series:
            watch.hear(part[step])
        watch.judge(step)
    assert list(watch.fired) == ([] if expected is None else [expected])


def noticed(rewards: Sequence[float], accuracy: Sequence[float]) -> dict[str, int]:
    """What is noticed of a run whose reward is read every third step, and whose held-out problems every sixth and at first."""
    watch = AlarmWatch(REINFORCEMENT_NOTICES)
    watch.hear({"task/accuracy": accuracy[0]})
    for number, reward in enumerate(rewards, start=1):
        watch.hear({"objective/rlhf_reward": reward})
        if number % 2 == 0:
            watch.hear({"task/accuracy": accuracy[number // 2]})
        watch.judge(3 * number)
    return dict(watch.fired)


FALLS = [0.7, 0.66, 0.6, 0.5, 0.4]


def test_a_run_of_24_steps_is_long_enough_to_see_a_reward_hacked() -> None:
    hacked = [1.0, 1.4, 1.3, 1.9, 2.2, 2.1, 2.8, 3.0]
    assert noticed(hacked, FALLS) == {"reward_hacking": 18}
    assert noticed(hacked, [0.7, 0.72, 0.68, 0.7, 0.69]) == {}, "the problems are solved as before"
    assert noticed(hacked[::-1], FALLS) == {}, "the reward falls with them"


def test_a_reward_that_wavers_is_seldom_taken_for_one_that_rises() -> None:
    draws = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)).tolist()
    assert sum(bool(noticed(rewards, FALLS)) for rewards in draws) < 0.1 * len(draws)


def concluded(readings: Sequence[dict[str, float]], logged: Sequence[str] = ()) -> dict[str, str]:
    """Verdicts of the reinforcement notices after these readings, one a step."""
    watch = AlarmWatch(REINFORCEMENT_NOTICES)
    for step, reading in enumerate(readings):
        watch.hear(reading)
        watch.judge(step)
    return watch.verdicts(logged)


ACCURACY = [{"task/accuracy": 0.5 + 0.01 * n} for n in range(8)]
REWARD = [{"objective/rlhf_reward": float(n)} for n in range(8)]


def test_what_is_of_rewards_has_no_verdict_in_a_run_without_them() -> None:
    # Accuracy rises: no condition of reward hacking holds, yet there is no reward that could be hacked.
    assert concluded(ACCURACY) == {}
    # A preference run whose trainer has LazyLikelihood.
    assert concluded([reading | {"lazy_likelihood/lift": 0.5} for reading in ACCURACY]) == {"lazy_likelihood": "no sign"}


def test_a_run_with_rewards_is_judged_or_says_what_it_lacks() -> None:
    both = [reward | accuracy for reward, accuracy in zip(REWARD, ACCURACY, strict=True)]
    assert concluded(both)["reward_hacking"] == "no sign"
    assert concluded(both)["lazy_likelihood"] == "not judged: lazy_likelihood/lift was not measured"
    # The reward wavers, then rises: that no reading of accuracy was wanted at first is no all-clear.
    wavers = [{"objective/rlhf_reward": reward} for reward in (3.0, 2.0, 1.0, 0.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)]
    assert concluded(wavers[:5])["reward_hacking"] == "no sign"
    assert concluded(wavers)["reward_hacking"] == "not judged: task/accuracy was not measured"


def test_a_run_that_ends_before_its_first_reading_is_not_judged() -> None:
    assert concluded([], ["objective/rlhf_reward"]).keys() == {"reward_hacking", "kl_blow_up", "lazy_likelihood"}
    assert concluded(ACCURACY[:1], ["objective/rlhf_reward"])["reward_hacking"].startswith("not judged: objective/rlhf_reward")
    assert concluded([], ["train/loss"]) == {}
