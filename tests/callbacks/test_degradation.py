from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from callbacks.degradation import DegradationMonitor, chosen_change_by_class, control, quadrants, rankings
from callbacks.rows import read_rows
from datamodules.packing import pack
from lightning_modules.losses.base import SequenceLogps
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from lightning_modules.step_output import PairOutput
from tests.callbacks.rig import PAIRS, BigramSpec, ProbedPairs, fit, pair, supervised

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def sequences(chosen: list[float], rejected: list[float], reference: tuple[list[float], list[float]] | None) -> SequenceLogps:
    ones = torch.ones(len(chosen))
    sides = (None, None) if reference is None else tuple(map(torch.tensor, reference))
    return SequenceLogps(torch.tensor(chosen), torch.tensor(rejected), ones, ones, *sides)


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
    reference = ([-1.0, -3.0, -1.0, -3.0], [-2.0, -2.0, -2.0, -2.0])
    found = rankings(sequences([-1.0, -1.0, -3.0, -3.0], [-2.0, -2.0, -2.0, -2.0], reference))
    assert {name: values.tolist() for name, values in found.items()} == {
        "ranking_accuracy": [True, True, False, False],
        "flips_to_right": [False, True, False, False],
        "flips_to_wrong": [False, False, True, False],
    }
    assert set(rankings(sequences([-1.0], [-2.0], None))) == {"ranking_accuracy"}


def test_a_large_margin_saturates() -> None:
    pairs = sequences([-1.0, -1.0], [-2.0, -2.0], None)
    output = PairOutput(pairs, torch.zeros(2), torch.tensor([0.0, 3.0]), torch.tensor([0.0, -2.0]))
    found = control(output)
    torch.testing.assert_close(found["weight"], torch.tensor([0.5, 0.0066929]))
    assert found["saturated"].tolist() == [False, True]


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
    trainer = fit(module, [DegradationMonitor(1)], tmp_path)
    rows = read_rows(Path(trainer.log_dir or ""), "degradation")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["degradation/weight"] == pytest.approx(0.5, abs=1e-6)
    assert rows[0]["degradation/displaced"] == 0
    for row in rows:
        assert sum(value for name, value in row.items() if name.startswith("degradation/quadrant/")) == pytest.approx(1)
    assert rows[-1]["degradation/weight"] < 0.5


def test_supervised_runs_have_nothing_to_degrade(tmp_path: Path) -> None:
    data = ProbedPairs(supervised(PAIRS), [[0, 1]], 1)
    trainer = fit(SFTModule(BigramSpec(), partial(SGD, lr=0.3)), [DegradationMonitor(1)], tmp_path, data=data)
    assert read_rows(Path(trainer.log_dir or ""), "degradation") == []
