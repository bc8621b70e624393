"""What the pairs risk, against pairs counted by hand; and the doctor before a real run."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from callbacks.mathematics.head_geometry import PairGeometry
from callbacks.mathematics.pair_risks import RISKS, model_facts, pair_facts, pair_keys, repeated, warnings
from callbacks.output.data_doctor import DataDoctor, _row_names
from datamodules.contracts.packing import pack
from lightning_modules.token_stats import TokenStats
from tests import tiny
from tests.callbacks.rig import PAIRS, pair
from tests.conftest import Run

# chosen longer, half of it in rejected after a common token; chosen shorter; the same twice.
BATCH = pack(
    [pair([1, 2], [3, 4, 5, 0], [3, 5, 9]), pair([2], [7, 0], [8, 8, 0]), pair([6], [4, 0], [4, 0])],
    reference_token_logps=torch.tensor([-1.0, -2, -3, -2, -1, -1, -1, -4, -2, -3, -3, -3, -5, -1, -5, -1]),
)


def test_facts_of_pairs_counted_by_hand() -> None:
    facts = {name: values.tolist() for name, values in pair_facts(BATCH).items()}
    assert facts["chosen_tokens"] == [4, 2, 2]
    assert facts["rejected_tokens"] == [3, 3, 2]
    assert facts["longer_wins"] == [1, 0, 0.5]
    assert facts["identical"] == [0, 0, 1]
    assert facts["shared_prefix"] == [0.25, 0, 1]
    # 3 (prefix) and 5 of 3, 4, 5, 0; the end of sequence of 7, 0.
    assert facts["overlap"] == [0.5, 0.5, 1]
    assert facts["reference_chosen"] == [-2, -3, -3]
    assert facts["reference_rejected"] == [-1, -3, -3]
    assert facts["reference_gap"] == [-1, 0, 0]
    # Sums decide: -8 against -3, -6 against -9, -6 against -6.
    assert facts["reference_right"] == [0, 1, 0]


def test_without_a_reference_nothing_is_said_of_it() -> None:
    assert not any(name.startswith("reference") for name in pair_facts(pack([pair([1], [2, 0], [3, 0])])))


def test_duplicates_are_whole_pairs() -> None:
    first, other_prompt, other_chosen = pair([1], [2, 0], [3, 0]), pair([2], [2, 0], [3, 0]), pair([1], [4, 0], [3, 0])
    keys = pair_keys(pack([first, other_prompt, other_chosen, first]))
    assert repeated(keys) == {"duplicate_pairs": 1, "repeated_prompts": 1}


def test_what_the_model_says_of_a_pair() -> None:
    batch = pack([pair([1], [2, 0], [3, 4])])
    logps = torch.tensor([-1.0, -3.0, -2.0, -1.0])
    stats = TokenStats(
        logps=logps,
        entropy=torch.tensor([1.0, 1.0, 1.25, 1.25]),
        sum_sq_probs=torch.ones(4),
        top1_probs=torch.ones(4),
        is_top1=torch.ones(4, dtype=torch.bool),
        target_sequence=batch.target_sequence,
        num_sequences=2,
        hidden=torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]),
    )
    geometry = PairGeometry(torch.tensor([2.0]), torch.tensor([3.0]), torch.tensor([5.0]))
    facts = {name: values.item() for name, values in model_facts(batch, stats, geometry).items()}
    assert facts["surplus_chosen"] == pytest.approx(1.0)
    assert facts["surplus_rejected"] == pytest.approx(0.25)
    assert (facts["on_policy_chosen"], facts["on_policy_rejected"]) == (0, 1)
    # S+ = (1, 1), S- = (2, 0): 2 - 2.
    assert facts["ches"] == pytest.approx(0.0)
    # ||s_w||^2 - <s_w, s_l> = 4 - 5.
    assert facts["displaced"] == 1
    assert facts["cosine"] == pytest.approx(5 / 6)


def test_warnings_tell_the_number_and_come_only_beyond_their_threshold() -> None:
    assert warnings({"longer_wins": 0.55, "identical": 0.0, "overlap": 0.3, "reference_gap": 0.5}) == []
    (said,) = warnings({"longer_wins": 0.68})
    assert "right for 68% of the pairs" in said
    (said,) = warnings({"reference_gap": -1.5})
    assert "1.50 nats per token likelier" in said
    worst = {risk.fact: math.inf if not risk.below else -math.inf for risk in RISKS}
    assert warnings({name: value for name, value in worst.items() if value > 0})


def test_a_row_of_a_mixture_is_named_with_its_source() -> None:
    batch = pack([replace(PAIRS[0], row_number=5, source="helpful"), replace(PAIRS[1], row_number=5, source="harmless")])
    assert _row_names(batch) == ["helpful 5", "harmless 5"]
    assert _row_names(pack([replace(PAIRS[0], row_number=7)])) == ["7"]


def experiment(folder: Path, callbacks: list[dict[str, Any]], *, supervised: bool = False) -> dict[str, Any]:
    return {
        "seed_everything": 1,
        "trainer": tiny.trainer(folder, callbacks, max_steps=1),
        "model": tiny.module(folder, supervised=supervised),
        "data": tiny.pair_data(folder, supervised=supervised),
    }


def test_a_run_starts_with_a_visit(tmp_path: Path, run: Run, write_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr("callbacks.output.data_doctor.Console", lambda: Console(file=printed, width=120))
    cli = run("fit", "--config", write_config(experiment(tmp_path, [{"class_path": "callbacks.output.data_doctor.DataDoctor"}])))
    written = json.loads((Path(cli.trainer.log_dir or "") / "data_doctor.json").read_text())
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    kept = [pairs[example.row_number] for example in cli.datamodule.dataset("train").examples]
    assert written["rows"]["rows_read"] == len(pairs)
    assert written["pairs"]["pairs"] == len(kept) < len(pairs)
    # One token a word, and the end of sequence.
    lengths = [(len(row["chosen"].split()) + 1, len(row["rejected"].split()) + 1) for row in kept]
    assert written["pairs"]["chosen_tokens"] == pytest.approx(sum(chosen for chosen, _ in lengths) / len(kept))
    wins = [1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0 for chosen, rejected in lengths]
    assert written["pairs"]["longer_wins"] == pytest.approx(sum(wins) / len(kept))
    assert {"ches", "displaced", "reference_chosen", "on_policy_rejected", "highest_ches_rows"} <= written["pairs"].keys()
    assert "The pairs, before training" in printed.getvalue()
    assert all(sentence[:40] in printed.getvalue() for sentence in written["warnings"])


def test_a_doctor_who_may_read_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_pairs >= 1"):
        DataDoctor(max_pairs=0)


def test_data_without_pairs_is_left_alone(tmp_path: Path, run: Run, write_config: Any) -> None:
    doctor = [{"class_path": "callbacks.output.data_doctor.DataDoctor"}]
    cli = run("fit", "--config", write_config(experiment(tmp_path, doctor, supervised=True)))
    assert not (Path(cli.trainer.log_dir or "") / "data_doctor.json").exists()
