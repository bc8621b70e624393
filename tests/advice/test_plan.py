"""What fits into the time."""

from __future__ import annotations

from advice.plan import Cost, control_seconds, halving_seconds, least_budget, planned_rungs, rungs_of

COST = Cost(setup=2.0, step=1.0, reading=3.0)


def test_all_go_to_the_end_where_there_is_time() -> None:
    # 7 x (2 + 20 + 3)
    assert planned_rungs(7, 20, COST, budget=175.0, done=20) == [20]
    assert planned_rungs(7, 20, COST, budget=174.9, done=20) != [20]


def test_the_control_has_to_come_as_far_as_the_last_comparison() -> None:
    # 2 + 15 + 3; with a look on the way 3 more.
    assert control_seconds([20], COST, done=5) == 20.0
    assert control_seconds([10, 20], COST, done=5) == 23.0
    assert control_seconds([5], COST, done=5) == 0.0
    assert planned_rungs(7, 20, COST, budget=195.0, done=5) == [20]
    assert planned_rungs(7, 20, COST, budget=194.9, done=5) == [10, 20]


def test_halving_takes_as_late_a_first_look_as_it_can() -> None:
    assert rungs_of(20) == [5, 10, 20]
    # 7 x 15 + 4 x 15
    assert halving_seconds(7, [10, 20], COST) == 165.0
    assert planned_rungs(7, 20, COST, budget=170.0, done=20) == [10, 20]
    # 7 x 10 + 4 x 10 + 2 x 15
    assert planned_rungs(7, 20, COST, budget=150.0, done=20) == [5, 10, 20]


def test_shorter_forks_come_before_nothing() -> None:
    assert planned_rungs(7, 20, COST, budget=120.0, done=20) == [5, 10]
    assert planned_rungs(7, 20, COST, budget=80.0, done=20) == [5]
    assert least_budget(7, 20, COST) == 70.0
    assert planned_rungs(7, 20, COST, budget=69.0, done=20) is None


def test_short_forks_have_fewer_looks() -> None:
    assert rungs_of(1) == [1]
    assert rungs_of(2) == [1, 2]
    assert planned_rungs(0, 20, COST, budget=0.0, done=20) == [20]
