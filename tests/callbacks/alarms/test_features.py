"""What warnings read, against values counted by hand."""

from __future__ import annotations

import math

import pytest

from callbacks.alarms.features import FEATURES, METRICS, lacking

FIRST = {
    **{f"likelihood/bank/{kind}/change_per_token": 0.0 for kind in ("chosen", "rejected", "other_chosen")},
    "likelihood/bank/chosen/logp_per_token_spread": 0.2,
    "likelihood/bank/rejected/logp_per_token_spread": 0.4,
    "likelihood/bank/other_chosen/logp_per_token_spread": 0.5,
    "dispersion/bank/off_data_mass": 0.2,
    "dispersion/bank/off_pair_mass": 0.5,
    "degradation/bank/quadrant/both_down": 0.0,
    "dispersion/bank/chosen/top1_mass": 0.8,
    "mass/chosen/moved": 0.0,
    "mass/rejected/moved": 0.0,
}
LATEST = FIRST | {
    "likelihood/bank/chosen/change_per_token": -0.1,
    "likelihood/bank/rejected/change_per_token": -0.2,
    "likelihood/bank/other_chosen/change_per_token": -0.05,
    # Spreads of now are no units.
    "likelihood/bank/chosen/logp_per_token_spread": 9.0,
    "dispersion/bank/off_data_mass": 0.28,
    "dispersion/bank/off_pair_mass": 0.75,
    "degradation/bank/quadrant/both_down": 0.25,
    "mass/chosen/moved": 0.16,
    "mass/chosen/to_off_data": 0.5,
    "mass/rejected/moved": 0.36,
}
BY_HAND = {
    "others_fall": 0.05 / 0.5,
    "collateral": 0.05 / 0.2,
    "chosen_fall": 0.1 / 0.2,
    "both_down": 0.25,
    "off_data_growth": 0.08 / 0.8,
    "off_pair_growth": 0.25 / 0.5,
    "chosen_moved": 0.16,
    "chosen_lost": 0.08,
    "rejected_moved": 0.36,
    "lost_beyond_doubt": 0.08 / 0.2,
    # Nobody judges answers here.
    "judged_fall": 0.0,
}


def values(latest: dict[str, float]) -> dict[str, float]:
    return {feature.name: feature.value(FIRST, latest) for feature in FEATURES}


def test_every_feature_is_what_its_definition_gives() -> None:
    assert values(LATEST) == {name: pytest.approx(value) for name, value in BY_HAND.items()}


def test_fewer_solved_problems_count_beyond_chance() -> None:
    [judged] = [feature for feature in FEATURES if feature.name == "judged_fall"]
    first, latest = ({"task/accuracy": share, "task/problems": 100.0} for share in (0.6, 0.4))
    # 0.2 - sqrt((0.6 * 0.4 + 0.4 * 0.6) / 100)
    assert judged.value(FIRST | first, LATEST | latest) == pytest.approx(0.2 - 0.0692820323)
    assert judged.value(FIRST | first, LATEST | first | {"task/accuracy": 0.55}) == 0.0, "within one standard error"


def test_all_are_0_at_the_start_and_where_things_get_better() -> None:
    assert set(values(FIRST).values()) == {0.0}
    better = FIRST | {f"likelihood/bank/{kind}/change_per_token": 0.3 for kind in ("chosen", "rejected", "other_chosen")}
    assert set(values(better | {"dispersion/bank/off_data_mass": 0.1, "dispersion/bank/off_pair_mass": 0.1}).values()) == {0.0}


def test_the_same_drop_of_nats_counts_less_where_likelihoods_differ_more() -> None:
    """A model whose answers are apart by ten times as many nats reads the same of ten times the change."""
    nats = [name for name in METRICS if name.startswith("likelihood/")]
    first = FIRST | {name: 10 * FIRST[name] for name in nats}
    latest = LATEST | {name: 10 * LATEST[name] for name in nats}
    assert [feature.value(first, latest) for feature in FEATURES] == pytest.approx(list(BY_HAND.values()))


def test_sizes_are_roots_of_shares_and_logarithms_of_the_rest() -> None:
    for feature in FEATURES:
        value = BY_HAND[feature.name]
        assert feature.size(FIRST, LATEST) == pytest.approx(math.sqrt(value) if feature.is_share else math.log(1 + value))
        assert "{value" in feature.says


def test_collateral_is_bounded_and_waits_for_a_fall_of_rejected() -> None:
    barely = LATEST | {"likelihood/bank/rejected/change_per_token": -0.019}
    assert values(barely)["collateral"] == 0.0
    far = LATEST | {"likelihood/bank/other_chosen/change_per_token": -7.0}
    assert values(far)["collateral"] == 2.0


def test_what_was_not_read_is_named() -> None:
    assert lacking(LATEST) == []
    assert lacking(FIRST) == [], "where mass went is known only once some has moved"
    del (part := dict(LATEST))["mass/chosen/moved"]
    assert lacking(part) == ["mass/chosen/moved"]
