from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from callbacks.diagnostics.degradation import DegradationMonitor, chosen_change_by_class, control, quadrants, rankings
from datamodules.contracts.packing import pack
from lightning_modules.losses.base import SequenceLogps
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.hinge import HingeLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from lightning_modules.step_output import PairOutput
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, ProbedPairs, fit, pair, supervised

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def test_every_pair_lies_in_one_quadrant() -> None:
    chosen = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, -0.001])
    rejected = torch.tensor([1.0, -1.0, 1.0, -1.0, -2.0, 0.0])
    found = quadrants(chosen, rejected)
    assert {name: member.nonzero().flatten().tolist() for name, member in found.items()} == {
        "both_up": [0, 5],
        "chosen_up_rejected_down": [1, 4],
        "chosen_down_rejected_up": [2],
        "both_down": [3],
    }


def test_rankings_and_flips_by_hand() -> None:
    rejected = torch.full((4,), -2.0)
    before = torch.tensor([-1.0, -3.0, -1.0, -3.0]), rejected
    found = rankings((torch.tensor([-1.0, -1.0, -3.0, -3.0]), rejected), before)
    assert {name: values.tolist() for name, values in found.items()} == {
        "ranking_accuracy": [True, True, False, False],
        "flips_to_right": [False, True, False, False],
        "flips_to_wrong": [False, False, True, False],
    }
    assert set(rankings(before, None)) == {"ranking_accuracy"}


def test_a_large_margin_saturates() -> None:
    pairs = SequenceLogps(*torch.tensor([[-1.0, -1.0], [-2.0, -2.0], [1.0, 1.0], [1.0, 1.0]]))
    output = PairOutput(pairs, torch.zeros(2), torch.tensor([0.0, 3.0]), torch.tensor([0.0, -2.0]))
    found = control(output)
    torch.testing.assert_close(found["weight"], torch.tensor([0.5, 0.0066929]))
    assert found["saturated"].tolist() == [False, True]


def test_a_loss_that_pushes_otherwise_has_no_weight(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), HingeLoss(), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    rows = read_rows(Path(fit(module, [DegradationMonitor(1, 1)], tmp_path).log_dir or ""), "degradation")
    assert "degradation/displaced" in rows[1]
    assert not any(name.startswith(("degradation/weight", "degradation/saturated")) for row in rows for name in row)


def test_chosen_tokens_are_split_by_what_rejected_holds() -> None:
    batch = pack([pair([1], [3, 4, 5, 0], [3, 4, 6, 5])])
    found = chosen_change_by_class(batch, torch.tensor([-1.0, -3.0, 2.0, 1.0, 9.0, 9.0, 9.0, 9.0]))
    assert {name: (values.total.item(), values.number.item()) for name, values in found.items()} == {
        "chosen/shared/change_per_token": (-4.0, 2),
        "chosen/divergent/change_per_token": (2.0, 1),
        "chosen/overlap/change_per_token": (0.0, 0),
        "chosen/novel/change_per_token": (1.0, 1),
    }


def test_rows_of_a_run(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    trainer = fit(module, [DegradationMonitor(1, 1)], tmp_path)
    start, *rows = read_rows(Path(trainer.log_dir or ""), "degradation")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert start["step"] == start["degradation/bank/displaced"] == 0
    assert rows[0]["degradation/weight"] == pytest.approx(0.5, abs=1e-6)
    assert rows[0]["degradation/displaced"] == 0
    for row in rows:
        for prefix in ("degradation/quadrant/", "degradation/bank/quadrant/"):
            assert sum(value for name, value in row.items() if name.startswith(prefix)) == pytest.approx(1)
    assert rows[-1]["degradation/weight"] < 0.5


def test_bank_is_measured_against_the_start_by_hand(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    trainer = fit(module, [DegradationMonitor(1, 1)], tmp_path)
    row = read_rows(Path(trainer.log_dir or ""), "degradation")[-1]
    batch = pack(PAIRS[:2])
    with torch.no_grad():
        now, before = (policy(batch).sum_by_sequence()[batch.pairs] for policy in (module.policy, BigramPolicy()))
    fell = now - before < -0.01
    assert row["degradation/bank/displaced"] == fell[:, 0].double().mean().item()
    assert row["degradation/bank/quadrant/both_down"] == fell.all(1).double().mean().item()
    assert row["degradation/bank/ranking_accuracy"] == (now[:, 0] > now[:, 1]).double().mean().item()
    flipped = (now[:, 0] > now[:, 1]) & (before[:, 0] <= before[:, 1])
    assert row["degradation/bank/flips_to_right"] == flipped.double().mean().item()


def test_supervised_runs_have_the_curves_of_the_bank(tmp_path: Path) -> None:
    """One set for every objective: training on the chosen sides alone moves the pairs of the bank too."""
    data = ProbedPairs(PAIRS, [[0, 1]], 1)
    trainer = fit(SFTModule(BigramSpec(), partial(SGD, lr=0.3)), [DegradationMonitor(1, 1)], tmp_path, data=data)
    rows = read_rows(Path(trainer.log_dir or ""), "degradation")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(name == "step" or name.startswith("degradation/bank/") for row in rows for name in row)
    assert rows[1]["degradation/bank/quadrant/both_up"] > 0


def test_a_bank_without_pairs_has_nothing_to_degrade(tmp_path: Path) -> None:
    data = ProbedPairs(supervised(PAIRS), [[0, 1]], 1)
    trainer = fit(SFTModule(BigramSpec(), partial(SGD, lr=0.3)), [DegradationMonitor(1, 1)], tmp_path, data=data)
    assert read_rows(Path(trainer.log_dir or ""), "degradation") == []
