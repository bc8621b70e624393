"""The twins: the same pairs for both, nothing held out is trained on, slips that the exact judge sees, numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from bench import rm_dpo_twins, twins_results
from bench.rm_dpo_twins import KINDS, SETS, STEPS, Twin, reader, scenario
from bench.slips import OTHER_STORIES, slip_pairs, slipped, write
from bench.twins_results import cells, detour, figure, numbers
from datamodules.pool.data import PoolDataModule
from datamodules.pool.scenarios import PairRules
from datamodules.tasks.arithmetic_problems import generate
from datamodules.tasks.arithmetic_templates import TEMPLATES
from judges.arithmetic import ArithmeticJudge


def test_the_twins_differ_in_what_is_trained_alone() -> None:
    commands = {kind: Twin(kind, "1e-3", 2).command() for kind in KINDS}
    names = {"dpo_lr1e-3_seed2", "rm_lr1e-3_seed2"}
    rest = {tuple(word for word in command if word not in names and word not in KINDS[kind]) for kind, command in commands.items()}
    assert len(rest) == 1
    assert "--data.seed" in next(iter(rest))


def test_what_is_held_out_of_one_scenario_is_held_out_of_all() -> None:
    held_out, trained = [], set()
    for number in (1, 2):
        arguments = scenario(number, seed=1)["init_args"]
        data = PoolDataModule(**(arguments | {"rules": PairRules(**arguments["rules"])}))
        data.setup("fit")
        trained |= {example.prompt_ids for example in data.dataset("train").examples}
        held_out.append([example.prompt_ids for example in data.dataset("val").examples])
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) > 150
    assert not trained & set(held_out[0])


def test_every_set_is_described() -> None:
    assert list(reader(0)["init_args"]["sets"]) == list(SETS)


def test_slips_are_right_against_nearly_right() -> None:
    solution = "One tray has 8 / 2 = 4.\nThey have 4 * 4 = 16.\n#### 16"
    assert slipped(solution, -10) == "One tray has 8 / 2 = 4.\nThey have 4 * 4 = 6.\n#### 6"
    judge = ArithmeticJudge()
    for templates in (TEMPLATES, OTHER_STORIES):
        problems = list(generate("test", 40, 0, templates))
        for problem, row in zip(problems, slip_pairs(problems), strict=True):
            scores = [judge.judge(row["prompt"], row[side], problem.terse).score for side in ("chosen", "rejected")]
            assert scores == [5.0, 3.0]
            assert len(row["rejected"]) - len(row["chosen"]) in (-2, 0, 2)


def test_no_story_of_the_task_has_the_operations_of_the_others() -> None:
    ours, others = ({(t.first.operator, t.second.left, t.second.operator) for t in group} for group in (TEMPLATES, OTHER_STORIES))
    assert not ours & others
    assert len(others) == len(OTHER_STORIES)


def test_the_files_of_slips(tmp_path: Path) -> None:
    files = write(tmp_path, 7)
    assert list(files) == ["slips", "other_stories"]
    assert all(len(path.read_text().splitlines()) == 7 for path in files.values())


def test_a_detour_is_what_a_curve_goes_back_and_forth() -> None:
    assert detour(np.array([[50.0, 50.0], [70.0, 40.0], [60.0, 30.0], [80.0, 30.0]])).tolist() == [20.0, 0.0]


def test_numbers_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rm_dpo_twins, "RUNS", tmp_path)
    runs = [Twin("dpo", "3e-4", seed) for seed in (0, 1)]
    for run, end in zip(runs, (0.7, 0.8), strict=True):
        curve = ((0, 0.5, 0.5), (6, 0.6, 0.9), (STEPS, end, 0.7))
        rows = [
            {"step": step, **{f"pair_accuracy/{name}/accuracy": seen if name == "train" else unseen for name in SETS}}
            | {f"pair_accuracy/{name}/ranking": 0.25 for name in SETS}
            for step, seen, unseen in curve
        ]
        (run.folder / "diagnostics").mkdir(parents=True)
        (run.folder / "diagnostics" / "pair_accuracy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grid = cells([*runs, Twin("rm", "3e-4", 0)])
    assert [(cell.kind, len(cell.rows)) for cell in grid] == [("dpo", 2)]
    text = numbers(grid)
    assert "| DPO | 3e-4 | 2 | 75.0 ± 7.1 | 70.0 ± 0.0 |" in text
    assert "| DPO | 3e-4 | 2 | 25.0 ± 0.0 |" in text
    # Held out: 50, 90, 70. Its highest stands at step 6, 20 points above the end; of 60 points of moves 20 are net.
    assert "| DPO | 3e-4 | 2 | 5.0 ± 7.1 | 90.0 ± 0.0 | 6 ± 0 | 20.0 ± 0.0 | 0.0 ± 0.0 | 40.0 ± 0.0 | 40.0 ± 0.0 |" in text
    monkeypatch.setattr(twins_results, "SETS", {"train": "", "held_out": ""})
    figure(grid).savefig(tmp_path / "twins.png", dpi=20)
    assert (tmp_path / "twins.png").stat().st_size > 1000


def test_the_page_is_written_below_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins_results, "OUT", tmp_path)
    monkeypatch.setattr(twins_results, "twins", list)
    monkeypatch.setattr(twins_results, "figure", lambda grid: Figure())
    (tmp_path / "twins.md").write_text(f"# Said by hand\n\n{twins_results.NUMBERS}\nold\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["twins_results"])
    twins_results.main()
    assert (tmp_path / "twins.md").read_text(encoding="utf-8").startswith(f"# Said by hand\n\n{twins_results.NUMBERS}\nMean")
    assert "old" not in (tmp_path / "twins.md").read_text(encoding="utf-8")
