from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from callbacks.diagnostics.dispersion import DispersionMonitor, changes_by_group, dispersion_index, off_pair_mass, sharpness
from callbacks.diagnostics.probe_bank import BankBatch
from callbacks.mathematics.squeeze import Sharpness, squeezed
from datamodules.contracts.batches import Role
from datamodules.contracts.examples import TokenizedCompletion
from datamodules.contracts.packing import pack
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.toy.policy import ToyPolicy, ToyShape
from lightning_modules.preference import PreferenceModule
from lightning_modules.token_stats import TokenStats
from run_folder.rows import read_rows
from tests.callbacks.rig import PAIRS, BigramPolicy, BigramSpec, ProbedPairs, fit, pair

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def stats_of(logps: list[float], sequences: list[int]) -> TokenStats:
    values = torch.tensor(logps)
    return TokenStats(
        logps=values,
        entropy=torch.arange(len(logps)) / 10,
        sum_sq_probs=values.exp().square(),
        top1_probs=values.exp(),
        is_top1=torch.ones(len(logps), dtype=torch.bool),
        target_sequence=torch.tensor(sequences),
        num_sequences=max(sequences) + 1,
    )


def test_off_pair_mass_at_the_branch_and_along_the_path() -> None:
    # [3 4 5] and [3 6]: shared 3, then 4 against 6.
    batch = pack([pair([1], [3, 4, 5], [3, 6])])
    stats = stats_of([math.log(p) for p in (0.5, 0.25, 0.125, 0.5, 0.6)], [0, 0, 0, 1, 1])
    found = off_pair_mass(stats, batch)
    assert found["off_pair_mass"].total.item() == pytest.approx(1 - 0.25 - 0.6)
    assert found["off_pair_path_mass"].total.item() == pytest.approx(1 - 0.5 * (0.25 + 0.6))
    assert found["off_pair_mass"].number.item() == 1


def test_off_pair_mass_where_a_side_ends_and_where_sides_are_equal() -> None:
    batch = pack([pair([1], [3, 4], [3]), pair([1], [5], [5])])
    stats = stats_of([math.log(p) for p in (0.5, 0.25, 0.5, 0.75, 0.75)], [0, 0, 1, 2, 3])
    found = off_pair_mass(stats, batch)
    assert found["off_pair_mass"].total.item() == pytest.approx(0.75)
    assert found["off_pair_mass"].number.item() == 1, "the second pair has no branch"


def test_off_pair_mass_of_the_toy_is_what_the_pair_leaves() -> None:
    policy = ToyPolicy(ToyShape(num_seeds=2, width=16), seed=1)
    batch = pack([pair([prompt], [prompt % 4], [4 + prompt % 4]) for prompt in range(8)])
    with torch.no_grad():
        probs = policy.logits().softmax(-1).flatten(0, 1)
        found = off_pair_mass(policy(batch), batch)
    expected = sum((1 - probs[p, p % 4] - probs[p, 4 + p % 4]).item() for p in range(8))
    for mass in found.values():
        assert mass.total.item() == pytest.approx(expected, rel=1e-6)
        assert mass.number.item() == 8


def test_off_pair_mass_equals_brute_force_over_a_real_distribution() -> None:
    policy, batch = BigramPolicy(torch.float64), pack(PAIRS[:3])
    with torch.no_grad():
        stats = policy.forward(batch)
        logits = policy.table[batch.input_ids[batch.target_index]] + policy.position[batch.position_ids[batch.target_index]]
    probs = logits.softmax(-1)
    # First scored position of each chosen completion, and where it parts from the rejected one.
    branches = ((2, 5, 6), (9, 7, 8), (14 + 1, 6, 7))
    expected = sum((1 - probs[row, chosen] - probs[row, rejected]).item() for row, chosen, rejected in branches)
    assert off_pair_mass(stats, batch)["off_pair_mass"].total.item() == pytest.approx(expected, rel=1e-12)


def test_sharpness_is_split_by_kind() -> None:
    batch = pack([pair([1], [2, 3], [4])])
    found = sharpness(stats_of([-1.0, -2.0, -3.0], [0, 0, 1]), batch)
    torch.testing.assert_close(found["chosen/entropy"], torch.tensor([0.0, 0.1]))
    torch.testing.assert_close(found["rejected/exp_entropy"], torch.tensor([math.exp(0.2)]))
    torch.testing.assert_close(found["rejected/top1_mass"], torch.tensor([math.exp(-3)]))
    torch.testing.assert_close(found["chosen/sum_sq_probs"], torch.tensor([math.exp(-2), math.exp(-4)]))
    assert found["chosen/argmax_rate"].tolist() == [True, True]


def test_dispersion_index_by_hand() -> None:
    probes = (TokenizedCompletion((5, 6), Role.PROBE, "permuted"), TokenizedCompletion((7,), Role.PROBE, "leftover"))
    example = pair([1], [2], [3, 4])
    batch = pack([replace(example, completions=example.completions + probes)])
    stats = stats_of([-1.0, -5.0, -5.0, -2.0, -2.0, -1.0], [0, 1, 1, 2, 2, 3])
    bank = BankBatch(batch, stats, torch.tensor([-2.0, -1.0, -3.0, -2.0, -3.0, -4.0]))
    groups = {name: values.tolist() for name, values in changes_by_group(bank).items()}
    assert groups == {
        "pair/change": [1.0, -6.0],
        "pair/change_per_token": [1.0, -3.0],
        "permuted/change": [1.0],
        "permuted/change_per_token": [0.5],
        "leftover/change": [3.0],
        "leftover/change_per_token": [3.0],
        "probes/change": [1.0, 3.0],
        "probes/change_per_token": [0.5, 3.0],
    }
    assert dispersion_index({name: sum(values) / len(values) for name, values in groups.items()}) == {
        "permuted/index": 3.5,
        "permuted/index_per_token": 1.5,
        "leftover/index": 5.5,
        "leftover/index_per_token": 4.0,
        "probes/index": 4.5,
        "probes/index_per_token": 2.75,
    }


def test_rows_of_a_run_hold_the_index_of_the_bank(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    data = ProbedPairs(PAIRS, [[0, 1, 2], [3, 4]], 1)
    trainer = fit(module, [DispersionMonitor(1, 1)], tmp_path, data=data)
    rows = read_rows(Path(trainer.log_dir or ""), "dispersion")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["dispersion/bank/probes/index"] == 0
    last = {name.removeprefix("dispersion/"): value for name, value in rows[-1].items()}
    assert last["bank/probes/index"] == pytest.approx(last["bank/probes/change"] - last["bank/pair/change"])
    assert last["bank/probes/index"] != 0
    # Training values of step 1 are those of the policy the run started from.
    with torch.no_grad():
        batch = pack(PAIRS[:3])
        start = {name: values.double().mean().item() for name, values in sharpness(BigramPolicy()(batch), batch).items()}
    assert {name: rows[1][f"dispersion/{name}"] for name in start} == pytest.approx(start, rel=1e-6)


def test_squeeze_is_both_sides_down_and_the_argmax_up() -> None:
    batch = pack([pair([1], [3, 4], [5]), pair([1], [3, 4], [5]), pair([1], [3], [5]), pair([1], [3], [5])])
    start = Sharpness(torch.zeros(10), torch.zeros(10))
    # Pair 1: the chosen's two tokens move -1 and +0.5. Pair 2: chosen rises. Pair 3: the argmax falls. Pair 4: rejected stays.
    logps = torch.tensor([-1.0, 0.5, -1.0, 1.0, -0.5, -1.0, -1.0, -1.0, -1.0, -0.001])
    top1 = torch.tensor([0.2, -0.1, 0.0, 1.0, 1.0, 1.0, 0.5, -0.6, 1.0, 1.0])
    assert squeezed(batch, start, Sharpness(logps, top1)).tolist() == [True, False, False, False]


def test_squeeze_counts_from_the_reading_before_and_goes_on_after_a_resumption(tmp_path: Path) -> None:
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    monitor = DispersionMonitor(1, 1)
    trainer = fit(module, [monitor], tmp_path)
    rows = read_rows(Path(trainer.log_dir or ""), "dispersion")
    assert ["dispersion/bank/squeezed" in row for row in rows] == [False, True, True, True, True]
    resumed = DispersionMonitor(1, 1)
    resumed.load_state_dict(monitor.state_dict())
    ((logps, top1), *_) = resumed.state_dict()["before"]
    (batch, stats), *_ = module.probe_evaluation()
    assert torch.equal(logps, stats.logps)
    assert torch.equal(top1, stats.top1_probs.log())
    assert len(logps) == batch.num_targets


def test_bank_counts_all_known_responses(tmp_path: Path) -> None:
    """Bigram probes are of other kinds, so that the known responses are the pair: brute force over its nodes."""
    module = PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(tmp_path / "cache"))
    trainer = fit(module, [DispersionMonitor(1, 1)], tmp_path)
    row = read_rows(Path(trainer.log_dir or ""), "dispersion")[0]
    batch = pack(PAIRS[:2])
    with torch.no_grad():
        probs = BigramPolicy()(batch).logps.double().exp().tolist()
    # Pair 1: [3 4 5 0] and [3 4 6 5 0] part at the third token. Pair 2: [7 0] and [8 8 0] part at the first.
    (a, b, c, d), (_, _, e, f, g), (h, i), (j, k, m) = probs[:4], probs[4:9], probs[9:11], probs[11:]
    nodes = [1 - a, 1 - b, 1 - c - e, 1 - d, 1 - f, 1 - g, 1 - h - j, 1 - i, 1 - k, 1 - m]
    assert row["dispersion/bank/off_data_mass"] == pytest.approx(sum(nodes) / len(nodes))
    seen = [math.log(a * b * c * d + a * b * e * f * g), math.log(h * i + j * k * m)]
    assert row["dispersion/bank/log_seen_mass"] == pytest.approx(sum(seen) / 2)
