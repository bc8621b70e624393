from __future__ import annotations

import pytest

from datamodules.pool.scenarios import SCENARIOS, Filtered, PairRules, view_scenario
from datamodules.pool.schema import PoolRow, Response

OF_SCENARIO = {1: ("policy", "policy"), 2: ("dataset", "policy"), 3: ("policy", "small"), 4: ("dataset", "small")}


def _row(prompt: str, **scores: list[float]) -> PoolRow:
    responses = [
        Response(f"{prompt} {source} {number}", source, score)
        for source, given in scores.items()
        for number, score in enumerate(given)
    ]
    return PoolRow(prompt, tuple(responses))


def _pool(number: int) -> dict[int, PoolRow]:
    return {row: _row(f"p{row}", policy=[2, 5, 1, 5], dataset=[5], small=[3, 1]) for row in range(number)}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_best_of_one_source_against_worst_of_the_other(scenario: int) -> None:
    view = view_scenario(_pool(3), scenario)
    assert [pair.row_number for pair in view.pairs] == [0, 1, 2]
    for pair in view.pairs:
        assert (pair.chosen.source, pair.rejected.source) == OF_SCENARIO[scenario]
        assert (pair.chosen.score, pair.rejected.score) == (5, 1)
        texts = {pair.chosen.text, pair.rejected.text, *(leftover.text for leftover in pair.leftovers)}
        assert len(pair.leftovers) == 5
        assert len(texts) == 7
    # The first of those that score the same.
    assert view_scenario(_pool(1), 1).pairs[0].chosen.text == "p0 policy 1"


def test_prompts_are_shared_and_every_reason_is_counted() -> None:
    rows = {
        0: _row("good", policy=[1, 5], dataset=[5], small=[2]),
        1: _row("policy alike", policy=[5, 5], dataset=[5], small=[2]),
        2: _row("no dataset", policy=[1, 5], small=[2]),
        3: _row("no other", policy=[1, 5], dataset=[5]),
        4: _row("all bad", policy=[1, 3], dataset=[5], small=[2]),
        5: _row("other better", policy=[1, 4], dataset=[5], small=[5]),
    }
    rules = PairRules(min_chosen_score=4)
    views = [view_scenario(rows, scenario, rules=rules) for scenario in SCENARIOS]
    for view in views:
        assert [pair.row_number for pair in view.pairs] == [0]
        assert view.num_prompts == 6
        assert view.filtered == {
            (1, Filtered.ALL_GOOD): 1,
            (2, Filtered.ALL_GOOD): 1,
            (2, Filtered.NO_CHOSEN): 1,
            (4, Filtered.NO_CHOSEN): 1,
            (3, Filtered.NO_REJECTED): 1,
            (4, Filtered.NO_REJECTED): 1,
            (1, Filtered.ALL_BAD): 1,
            (3, Filtered.ALL_BAD): 1,
            (3, Filtered.ALL_GOOD): 1,
            (4, Filtered.ALL_GOOD): 1,
        }
    assert "1 of 6 prompts" in views[0].summary()
    assert [pair.row_number for pair in view_scenario(rows, 1, shared=(1,), rules=rules).pairs] == [0, 2, 3, 5]


def test_alike_is_neither_good_nor_bad_without_a_bound() -> None:
    rows = {0: _row("good", policy=[5, 5]), 1: _row("bad", policy=[1, 1]), 2: _row("middling", policy=[4, 3.5])}
    assert view_scenario(rows, 1, shared=(1,)).filtered == {(1, Filtered.ALIKE): 3}
    bounded = view_scenario(rows, 1, shared=(1,), rules=PairRules(min_chosen_score=4))
    assert bounded.filtered == {(1, Filtered.ALL_GOOD): 1, (1, Filtered.ALL_BAD): 1, (1, Filtered.ALIKE): 1}


def test_unscored_and_empty_responses_are_not_paired() -> None:
    row = PoolRow("x", (Response("a", "policy", None), Response(" ", "policy", 0.0), Response("b", "policy", 5.0)))
    view = view_scenario({0: row}, 1, shared=(1,))
    assert view.filtered == {(1, Filtered.ALIKE): 1}
    assert not view.pairs


def test_a_gap_and_the_other_models_can_be_asked_for() -> None:
    rows = {0: _row("x", policy=[3, 5], dataset=[5], small=[4], large=[1])}
    assert view_scenario(rows, 3).pairs[0].rejected.source == "large"
    assert view_scenario(rows, 3, rules=PairRules(other_sources=("small",))).pairs[0].rejected.source == "small"
    assert not view_scenario(rows, 3, rules=PairRules(other_sources=("small",), min_gap=1.5)).pairs


def test_mix_replaces_nested_shares_by_scenario_1() -> None:
    rows = _pool(400)

    def on_policy(mix: float) -> set[int]:
        pairs = view_scenario(rows, 4, mix=mix).pairs
        assert len(pairs) == 400
        return {pair.row_number for pair in pairs if pair.chosen.source == pair.rejected.source == "policy"}

    assert on_policy(0) == set()
    assert on_policy(0.25) < on_policy(0.5) < on_policy(1) == set(rows)
    assert abs(len(on_policy(0.5)) - 200) < 40


@pytest.mark.parametrize("arguments", [{"scenario": 5}, {"scenario": 1, "shared": (0,)}, {"scenario": 1, "mix": 1.5}])
def test_what_there_is_not_is_an_error(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        view_scenario(_pool(1), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_gap"):
        PairRules(min_gap=0)
