"""The table of docs/results/strategies: it holds what was asked, and what it holds is so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.strategies import STAGES, STRATEGIES, compare

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/results/strategies/README.md"
ASKED = 1e-5
"""Largest relative difference of a parameter after five steps."""
LOGGED = 1e-3
"""Of a point or a row: float32 sums of other parts of a step."""

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def cells() -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {stage: found for stage, *found in rows[1:]}


def test_every_difference_on_the_page_is_what_was_asked() -> None:
    found = cells()
    assert found.keys() <= STAGES.keys()
    for stage in ("DPO", "KTO", "on-policy DPO", "PPO, GAE with a critic", "PPO, RLOO", "RM, head at the last token"):
        assert len(found[stage]) == 4
        assert "not run" not in found[stage]
    for stage, runs in found.items():
        for parameter, logged in (map(float, cell.split(", ")) for cell in runs if cell != "not run"):
            assert parameter <= ASKED, stage
            assert logged <= LOGGED, stage


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_stage_takes_the_same_steps_on_two_and_on_four_processes(tmp_path: Path) -> None:
    *_, found = compare(tmp_path, list(STAGES), list(STRATEGIES), [2, 4])
    wrong = {
        f"{stage}, {run}": difference
        for stage, runs in found.items()
        for run, difference in runs.items()
        if not (difference.parameter <= ASKED and difference.logged <= LOGGED and math.isfinite(difference.logged))
    }
    assert not wrong
