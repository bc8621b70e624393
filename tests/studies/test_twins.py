"""The twins: the same pairs for both, nothing held out is trained on, slips that the exact judge sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.pool.data import PoolDataModule
from datamodules.pool.scenarios import PairRules
from datamodules.tasks.arithmetic.problems import generate
from datamodules.tasks.arithmetic.templates import TEMPLATES
from judges.arithmetic import ArithmeticJudge
from studies.files import load_study
from studies.slips import OTHER_STORIES, slip_pairs, slipped, write

KINDS = {"dpo": ["--model.loss.beta", "0.1"], "rm": ["--model", "studies/trainers/twins_rm.yaml"]}


def test_the_twins_differ_in_what_is_trained_alone() -> None:
    cells = {kind: load_study("twins").select({"kind": [kind], "rate": ["1e-3"], "seed": ["2"]})[0] for kind in KINDS}
    rest = {tuple(word for word in cell.command() if word != cell.name and word not in KINDS[kind]) for kind, cell in cells.items()}
    assert len(rest) == 1
    assert "--data.seed" in next(iter(rest))


def test_what_is_held_out_of_one_scenario_is_held_out_of_all() -> None:
    cell = load_study("twins").select({"seed": ["1"]})[0]
    [reader] = [json.loads(word) for word in cell.command() if word.startswith("{")]
    own: dict[str, Any] = {"pool": "assets/arithmetic/pool.jsonl.xz", "scenario": 1, "tokenizer": "assets/arithmetic/base"}
    held_out, trained = [], set()
    for arguments in (own, reader["init_args"]["sets"]["scenario_2"]["data"]["init_args"]):
        shared = {"rules": PairRules(min_gap=1.0, min_chosen_score=4.0), "val_fraction": 0.2, "seed": 1}
        data = PoolDataModule(**(arguments | shared))
        data.setup("fit")
        trained |= {example.prompt_ids for example in data.dataset("train").examples}
        held_out.append([example.prompt_ids for example in data.dataset("val").examples])
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) > 150
    assert not trained & set(held_out[0])


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
