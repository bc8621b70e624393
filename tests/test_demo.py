from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from callbacks.output.run_summary import summary_lines
from demo import EXPERIMENTS, comparison, said
from tests.reports.made_up import write_run


def test_runs_stand_side_by_side() -> None:
    def lines(end: float) -> dict[str, list[tuple[int, float]]]:
        return {
            "likelihood/bank/chosen/logp": [(0, -5.0), (9, -5.0 + end)],
            "likelihood/bank/chosen/change": [(0, 0.0), (9, end)],
            "likelihood/bank/chosen/change_per_token": [(0, 0.0), (9, end / 10)],
            "task/accuracy": [(0, 0.6), (9, 0.6 + end / 10)],
        }

    runs = {experiment: summary_lines(lines(end)) for experiment, end in zip(EXPERIMENTS, (-2.0, 1.0), strict=True)}
    printed = io.StringIO()
    Console(width=120, file=printed).print(comparison(runs))
    rows = [re.findall(r"[^\s│]+", line) for line in printed.getvalue().splitlines()]
    assert [row[-3:] for row in rows if "chosen" in row] == [["-5.00", "-7.00", "-4.00"]]
    assert [row[-3:] for row in rows if "task/accuracy" in row] == [["0.600", "0.400", "0.700"]]


def test_each_run_is_told_in_a_line(tmp_path: Path) -> None:
    rows = {"accuracy": [{"step": step, "task/accuracy": value, "task/problems": 100} for step, value in ((0, 0.5), (9, 0.25))]}
    [line] = said({"worse": write_run(tmp_path / "worse" / "version_0", rows)})
    # 1.96 sqrt(.25 / 100 + .1875 / 100) = .1296
    assert line.startswith("worse: The run lost 25 points of accuracy: 0.500 -> 0.250.")
    assert "Beyond chance: 95% interval of the change [-38, -12] points" in line
    assert line.endswith("Warnings and notices: not judged.")
