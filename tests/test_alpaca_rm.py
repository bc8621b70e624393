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
from bench.alpaca_pairs import BASELINE, Fold, all_folds, write, write_folds
from bench.alpaca_results import Pairs, interval, lines, together
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
    monkeypatch.setattr(alpaca_pairs, "RUNS", tmp_path / "runs")
    write(annotation_file, str(write_model(tmp_path / "model")), Fold(0))
    train, held_out = (rows_of(Fold(0).folder / f"{side}_groups.jsonl") for side in ("train", "held_out"))
    assert (len({row["prompt"] for row in train}), len(held_out)) == (8, 2)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    assert all(row["scores"] == [0, 1, 1, -1] for row in held_out)
    # A long group is cut, and every part has the baseline's answer.
    assert [row["scores"] for row in train] == [[0, 1, 1], [0, -1]] * 8
    pairs = rows_of(Fold(0).folder / "train_pairs.jsonl")
    assert len(pairs) == 24
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} >= {("w9 w9 w9", "w2 w3"), ("w2 w3", "w3")}


def test_every_prompt_is_held_out_in_one_fold(annotation_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpaca_pairs, "RUNS", tmp_path / "runs")
    write_folds(annotation_file, str(write_model(tmp_path / "model")), max_tokens=96)
    held_out = []
    for fold in all_folds(96):
        train, held = (rows_of(fold.folder / f"{side}_groups.jsonl") for side in ("train", "held_out"))
        assert len({row["prompt"] for row in [*train, *held]}) == 10
        held_out += [row["prompt"] for row in held]
    assert len(held_out) == len(set(held_out)) == 10


def test_longer_answers_are_kept_where_that_is_asked_for(
    annotation_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alpaca_pairs, "RUNS", tmp_path / "runs")
    write_folds(annotation_file, str(write_model(tmp_path / "model")), max_tokens=200)
    held_out = [row["prompt"] for fold in all_folds(200) for row in rows_of(fold.folder / "held_out_groups.jsonl")]
    assert len(held_out) == 11
    assert "w20" in held_out


FOLD = Pairs(
    np.array([0, 0, 1, 1]),
    {"longer wins": np.array([3.0, -1.0, 0.0, 2.0]), "reward": np.array([0.5, 0.1, -0.2, -0.3])},
    np.array([2.0, 1.05, 1.0, 1.5]),
)


def test_shares_by_hand() -> None:
    rule, reward = lines([FOLD])
    assert rule[1] == reward[1] == "4 of 2"
    assert rule[2].startswith("0.625 (")
    assert rule[5:] == ["1.000", "0.000", "0.250"]
    # Two of four; 1/8 below the rule. Right where the shorter one is better, and in one of the two close pairs.
    assert reward[2].startswith("0.500 (")
    assert reward[3].startswith("-0.125 (")
    assert reward[4:] == ["-0.125", "0.500", "1.000", "0.500"]


def test_an_arm_is_read_on_the_folds_that_have_it() -> None:
    other = Pairs(np.array([0, 1]), {"longer wins": np.array([1.0, -1.0]), "later": np.array([1.0, 1.0])}, np.array([1.0, 2.0]))
    rule, reward, later = lines([FOLD, other])
    # The rule is right in 3.5 of six pairs of four prompts; each reward is set against it on the same pairs.
    assert (rule[1], reward[1], later[1]) == ("6 of 4", "4 of 2", "2 of 2")
    assert rule[2].startswith("0.583 (")
    assert (rule[4], reward[4], later[4]) == ("+0.000 +0.000", "-0.125", "+0.500")
    # Prompts of different folds are different prompts.
    assert together([FOLD, other], "longer wins").prompts.tolist() == [0, 0, 1, 1, 2, 3]


def test_the_range_is_wide_where_prompts_differ_and_pairs_of_a_prompt_do_not() -> None:
    values = np.repeat([0.0, 1.0], 50)
    assert interval(values, np.repeat([0, 1], 50)) == "0.500 (0.000 to 1.000)"
    assert interval(values, np.tile(np.arange(50), 2)).startswith("0.500 (0.5")


def small(arm: alpaca_rm.Probe | alpaca_rm.Training) -> alpaca_rm.Probe | alpaca_rm.Training:
    """Of eight steps, for a body of two layers."""
    if isinstance(arm, alpaca_rm.Probe):
        return replace(arm, choice=arm.choice and replace(arm.choice, num_layers=1))
    options = tuple("1" if option == str(alpaca_rm.NUM_LAYERS) else option for option in arm.options)
    return replace(arm, steps=8, batch_size=2, options=options)


def test_every_run_and_the_table(
    annotation_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, runs = str(write_model(tmp_path / "model")), tmp_path / "runs"
    arms = {name: small(arm) for name, arm in alpaca_rm.ARMS.items()}
    monkeypatch.setattr(alpaca_pairs, "RUNS", runs)
    for module in (alpaca_rm, alpaca_results):
        monkeypatch.setattr(module, "ARMS", arms)
    monkeypatch.setattr(sys, "argv", ["alpaca_rm", str(annotation_file), model])
    alpaca_rm.main()
    monkeypatch.setattr(sys, "argv", ["alpaca_rm", str(annotation_file), model, "rm_pairs", "--folds", "0,3"])
    alpaca_rm.main()
    monkeypatch.setattr(sys, "argv", ["alpaca_results", model])
    capsys.readouterr()
    alpaca_results.main()
    out = capsys.readouterr().out
    assert out.startswith("12 pairs, 4 prompts.")
    table = {cells[1].strip(): cells for line in out.splitlines() if (cells := line.split("|"))[1:]}
    assert {arms["rm_groups"].title, arms["rm_pairs"].title, "longer wins"} <= set(table)
    # Of the three pairs of a prompt the longer is better in two (w9 w9 w9, and w2 w3 over w3), and one has equal lengths.
    assert table["longer wins"][3].strip() == "0.833 (0.833 to 0.833)"
    assert (runs / "96" / "fold0" / "rm_sum_cut" / "version_0" / "choice.json").exists()
    # Where an answer has three tokens with its end, w9 w9 w9 and no other is longer.
    monkeypatch.setattr(sys, "argv", ["alpaca_results", model, "--longer_than", "3"])
    alpaca_results.main()
    assert capsys.readouterr().out.startswith("4 pairs, 4 prompts. Longer is better in 4,")
    assert (table[arms["rm_pairs"].title][2].strip(), table[arms["rm_groups"].title][2].strip()) == ("12 of 4", "6 of 2")
