from __future__ import annotations

import io
import re

from rich.console import Console

from callbacks.output.run_summary import summary_lines
from demo import EXPERIMENTS, comparison


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
