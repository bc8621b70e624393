"""The reward model of short AlpacaEval answers: what is held out, what is compared, and the numbers by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import alpaca_pairs, alpaca_results, alpaca_rm
from bench.alpaca_pairs import BASELINE, write
from bench.alpaca_results import Pairs, interval, lines
from tests.tiny import write_model


def annotated(prompt: str, answer: str, baseline: str, better: bool) -> dict[str, Any]:
    """A row of the file."""
    sides = [(answer, "other"), (baseline, BASELINE)]
    (chosen, chosen_model), (rejected, rejected_model) = sides if better else reversed(sides)
    models = {"chosen_model": chosen_model, "rejected_model": rejected_model}
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **models}


@pytest.fixture
def annotation_file(tmp_path: Path) -> Path:
    """Ten prompts with the baseline's answer, two better ones and a worse one."""
    rows = [
        annotated(f"w{number} w1", answer, "w2 w3", better)
        for number in range(4, 14)
        for answer, better in ((f"w{number} w{number}", True), ("w9 w9 w9", True), ("w3", False))
    ]
    # The same text from another model; an answer that is too long, and a prompt with nothing but the baseline's then.
    rows += [annotated("w4 w1", "w9 w9 w9", "w2 w3", False), annotated("w20", "w5 " * 200, "w2", True)]
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_prompts_are_held_out_whole_and_answers_have_the_score_they_won(
    annotation_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alpaca_pairs, "GROUP", 3)
    write(annotation_file, str(write_model(tmp_path / "model")), tmp_path)
    train, held_out = (rows_of(tmp_path / f"{side}_groups.jsonl") for side in ("train", "held_out"))
    assert (len({row["prompt"] for row in train}), len(held_out)) == (8, 2)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert all(row["scores"] == [0, 1, 1, -1] for row in held_out)
    # A long group is cut, and every part has the baseline's answer.
    assert [row["scores"] for row in train] == [[0, 1, 1], [0, -1]] * 8
    pairs = rows_of(tmp_path / "train_pairs.jsonl")
    assert len(pairs) == 24
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} >= {("w9 w9 w9", "w2 w3"), ("w2 w3", "w3")}


def test_shares_by_hand() -> None:
    held = Pairs(
        np.array([0, 0, 1, 1]),
        {"longer wins": np.array([3.0, -1.0, 0.0, 2.0]), "reward": np.array([0.5, 0.1, -0.2, -0.3])},
        np.array([2.0, 1.05, 1.0, 1.5]),
    )
    rule, reward = lines(held)
    assert rule[1].startswith("0.625 (")
    assert rule[3:] == ["1.000", "0.000", "0.250"]
    # Two of four; 1/8 below the rule. Right where the shorter one is better, and in one of the two close pairs.
    assert reward[1].startswith("0.500 (")
    assert reward[2].startswith("-0.125 (")
    assert reward[3:] == ["0.500", "1.000", "0.500"]


def test_the_range_is_wide_where_prompts_differ_and_pairs_of_a_prompt_do_not() -> None:
    values = np.repeat([0.0, 1.0], 50)
    assert interval(values, np.repeat([0, 1], 50)) == "0.500 (0.000 to 1.000)"
    assert interval(values, np.tile(np.arange(50), 2)).startswith("0.500 (0.5")


def test_every_run_and_the_table(
    annotation_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, runs = str(write_model(tmp_path / "model")), tmp_path / "runs"
    arms = {name: replace(arm, steps=8, batch_size=2) for name, arm in alpaca_rm.ARMS.items()}
    for module in (alpaca_rm, alpaca_results):
        monkeypatch.setattr(module, "RUNS", runs)
        monkeypatch.setattr(module, "ARMS", arms)
    monkeypatch.setattr(sys, "argv", ["alpaca_rm", str(annotation_file), model])
    alpaca_rm.main()
    monkeypatch.setattr(sys, "argv", ["alpaca_results", model])
    capsys.readouterr()
    alpaca_results.main()
    out = capsys.readouterr().out
    assert out.startswith("6 pairs, 2 prompts.")
    table = {cells[1].strip(): cells for line in out.splitlines() if (cells := line.split("|"))[1:]}
    assert {arms["rm_groups"].title, arms["rm_pairs"].title, "longer wins"} <= set(table)
    # Of the three pairs of a prompt the longer is better in two (w9 w9 w9, and w2 w3 over w3), and one has equal lengths.
    assert table["longer wins"][2].strip() == "0.833 (0.833 to 0.833)"
