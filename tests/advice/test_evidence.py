"""The page of the evidence counts what its rows say."""

from __future__ import annotations

from typing import Any

from studies.advice.page import against, cases, costs, policies, recommendations, write


def row(name: str, recommended: str | None, going_on: float, advised: float) -> dict[str, Any]:
    ends = {"going on": going_on, "advice": advised, "always a lower rate": going_on}
    return {
        "case": name,
        "family": name.split("_")[0],
        "label": [0.7, going_on],
        "recommended": recommended,
        "ends": ends,
        "trial_steps": 48,
        "trial_seconds": 90.0,
        "run_seconds": 30.0,
    }


ROWS = [row("a_x", "dpop", 0.4, 0.6), row("a_y", None, 0.5, 0.5), row("b_z", "dpop", 0.5, 0.4)]


def test_gains_and_harms_are_counted_against_going_on() -> None:
    _, _, advice, habit = policies(ROWS).splitlines()
    assert advice.startswith("| advice | 3 | +0.033 [-0.100, +0.200] |")
    assert advice.endswith("| 1 | 1 |")
    assert habit.endswith("| 3 | +0.000 [+0.000, +0.000] | 0 | 0 |")


def test_recommendations_costs_and_cases_are_listed() -> None:
    assert recommendations(ROWS).splitlines()[2:] == ["| dpop | 2 | +0.050 | 1 | 1 |", "| nothing | 1 | +0.000 | 0 | 0 |"]
    assert costs(ROWS).startswith("Optimizer steps: 2.0 runs (median; 2.0 to 2.0). Seconds, answers included, of 3 cases: 3.0 runs")
    untimed = [{key: value for key, value in one.items() if key != "trial_seconds"} for one in ROWS]
    assert "Seconds" not in costs(untimed)
    assert against(ROWS).splitlines()[-1] == "| always a lower rate | 3 | +0.033 [-0.100, +0.200] | 1 | 1 |"
    assert cases(ROWS).splitlines()[-1] == "| b_z | 0.70 -> 0.50 | dpop | 0.50 | 0.40 | 0.50 |"
    assert "3 cases of 20 wrong runs" in write(ROWS, 20)
