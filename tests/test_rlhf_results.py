"""The table of the RLHF experiments, from rows written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.rlhf_fresh import NUM_PROBLEMS, SEEN, problems
from bench.rlhf_results import PANELS, curves, figure, parse_arm, table
from datamodules.tasks.arithmetic import ArithmeticTask


def write_run(folder: Path, accuracy: tuple[float, float], chosen: float, gradient: str) -> str:
    rows = {
        "accuracy": [{"step": 0, "task/accuracy": accuracy[0]}, {"step": 40, "task/accuracy": accuracy[1]}],
        "likelihood": [
            {"step": step, "likelihood/bank/chosen/change_per_token": value} for step, value in ((0, 0.0), (40, chosen))
        ],
        "dispersion": [{"step": 0, "dispersion/bank/off_pair_mass": 0.1}, {"step": 40, "dispersion/bank/off_pair_mass": 0.3}],
        "softmax_grad": [{"step": 1, f"softmax_grad/{gradient}/l2": 0.5}],
    }
    (folder / "diagnostics").mkdir(parents=True)
    for name, content in rows.items():
        (folder / "diagnostics" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(folder)


def test_a_line_an_arm_with_the_spread_over_its_seeds(tmp_path: Path) -> None:
    dpo = [write_run(tmp_path / f"dpo{n}", (0.6, end), -0.2, "rejected") for n, end in enumerate((0.5, 0.3))]
    ppo = write_run(tmp_path / "ppo", (0.6, 0.75), 0.1, "sample_below")
    (tmp_path / "dpo1" / "fresh.json").write_text('{"problems": 20, "accuracy": 0.45}')
    arms = [parse_arm(f"DPO={','.join(dpo)}"), parse_arm(f"PPO={ppo}")]
    *_, first, second = table(arms).splitlines()
    assert (
        first
        == "| DPO | 2 | 40 | 0.600 ± 0.000 | 0.400 ± 0.141 | -20.0 ± 14.1 | 0.450 | -0.200 ± 0.000 |  |  | +0.200 ± 0.000 |  |"
    )
    assert second == "| PPO | 1 | 40 | 0.600 | 0.750 | +15.0 |  | +0.100 |  |  | +0.200 |  |"
    figure(arms, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_curve_is_of_the_steps_that_all_seeds_have_and_mass_counts_from_the_first(tmp_path: Path) -> None:
    arm = parse_arm(
        f"DPO={write_run(tmp_path / '0', (0.6, 0.5), -0.2, 'rejected')},{write_run(tmp_path / '1', (0.6, 0.3), 0, 'x')}"
    )
    with (tmp_path / "0" / "diagnostics" / "dispersion.jsonl").open("a") as file:
        file.write(json.dumps({"step": 50, "dispersion/bank/off_pair_mass": 0.5}) + "\n")
    drawn = {panel.title: curves(parse_arm(f"DPO={tmp_path / '0'},{tmp_path / '1'}"), panel) for panel in PANELS}
    steps, values = drawn["mass off the pair where it parts, change"] or pytest.fail("no curve")
    assert steps.tolist() == [0, 40]
    assert values.tolist() == [[0, pytest.approx(0.2)]] * 2
    assert drawn["mass off all known responses, change"] is None
    accuracy = curves(arm, next(panel for panel in PANELS if "accuracy" in panel.title))
    assert accuracy is not None
    assert accuracy[1].tolist() == [[0.6, 0.5], [0.6, 0.3]]


def test_a_folder_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows in"):
        parse_arm(f"DPO={tmp_path}")


def test_fresh_problems_are_none_that_a_run_reads() -> None:
    asked = [problem.item.prompt for problem in problems()]
    seen = {item.prompt for item in ArithmeticTask(num_test=SEEN).items("test")}
    assert len(set(asked) - seen) == NUM_PROBLEMS
