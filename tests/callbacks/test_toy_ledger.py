"""The toy's ledger against hand-made distributions and the paper's own readings, and in the trainer for SFT and preferences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from callbacks.diagnostics.toy_ledger import (
    CLASS_OF_KIND,
    ToyLedger,
    ledger,
    log10_mean,
    mean_by_seed,
    pair_gradients,
    papers_unseen,
)
from datamodules.contracts.batches import CompletionBatch
from datamodules.toy.data import ToyDataModule, ToyPreferenceDataModule, ToySFTDataModule
from datamodules.toy.scenarios import SCENARIOS
from lightning_modules.losses.hinge import HingeLoss
from lightning_modules.losses.sft_dpo import SFTDPOLoss
from lightning_modules.models.toy.policy import ToyPolicy, ToyShape
from lightning_modules.models.toy.specs import ToyPolicySpec
from lightning_modules.objective_module import ObjectiveModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from run_folder.rows import read_rows
from tests.callbacks.rig import events, fit
from tests.toy_rig import pair_batch, step

ROW = [0.3, 0.05, 0.1, 0.02, 0.06, 0.04, 0.2, 0.01, 0.15, 0.07]


def bank_of(num_seeds: int = 1, **options: Any) -> CompletionBatch:
    (bank,) = ToyPreferenceDataModule(num_seeds=num_seeds, **options).probe_batches()
    return bank


def same_row(row: list[float] | tuple[float, ...], num_prompts: int = 4) -> Tensor:
    """`[Q]` log-probs of a bank whose prompts all have this row."""
    return torch.tensor(row * num_prompts, dtype=torch.float64).log()


def test_ledger_of_a_row_by_hand() -> None:
    # Prompt 0 has chosen 0 and rejected 4; prompt 1 has chosen 1 and rejected 6.
    masses = ledger(bank_of(), same_row(ROW))
    expected = {
        "own_chosen": [0.3, 0.05],
        "own_rejected": [0.06, 0.2],
        "other_chosen": [0.05 + 0.1 + 0.02, 0.3 + 0.1 + 0.02],
        "other_rejected": [0.04 + 0.2 + 0.01, 0.06 + 0.04 + 0.01],
        "unseen": [0.22, 0.22],
    }
    assert masses.keys() == expected.keys()
    for name, values in expected.items():
        assert masses[name][:2].tolist() == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize("rejected", ["fixed", "random"])
def test_ledger_sums_to_one_for_any_policy(rejected: str) -> None:
    bank = bank_of(6, rejected=rejected)
    policy = ToyPolicy(ToyShape(6, 4, 10, 8))
    with torch.no_grad():
        policy.weights[2].mul_(50)
    total = sum(ledger(bank, policy(bank).logps).values(), torch.zeros(()))
    torch.testing.assert_close(total, torch.ones(24, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("scenario", "start"), [(1, 0.095), (2, 0.1075), (3, 0.1075), (4, 0.12)])
def test_papers_unseen_starts_where_figure_3_has_it(scenario: int, start: float) -> None:
    assert papers_unseen(bank_of(), same_row(SCENARIOS[scenario].row)).tolist() == pytest.approx([start] * 4, abs=1e-6)


def test_papers_unseen_loses_what_underflows_from_its_denominator() -> None:
    # All mass off the pair is on other prompts' chosen; other prompts' rejected are at e^-104, which is 0 in float32.
    logps = same_row([0.25] * 4 + [1e-30] * 4 + [1e-30] * 2)
    assert papers_unseen(bank_of(), logps)[0].item() == pytest.approx(0.75 / 8)
    logps[4:8] = -104
    assert papers_unseen(bank_of(), logps)[0].item() == pytest.approx(0.75 / 5)


def test_kinds_of_another_bank_are_refused() -> None:
    bank = bank_of()
    with pytest.raises(ValueError, match=r"got \['permuted'\]"):
        ledger(replace(bank, kinds=("permuted", *bank.kinds[1:])), same_row(ROW))


def test_means_by_seed() -> None:
    seeds = torch.tensor([0, 1, 1, 0, 1])
    values = torch.tensor([1.0, 2.0, 3.0, 5.0, 10.0], dtype=torch.float64)
    assert mean_by_seed(values, seeds, 2).tolist() == [3.0, 5.0]
    assert log10_mean(values, seeds, 2).tolist() == pytest.approx([math.log10(50_005), math.log10((1e2 + 1e3 + 1e10) / 3)])
    assert log10_mean(values + 400, seeds, 2)[0].item() == pytest.approx(400 + math.log10(50_005))
    assert log10_mean(torch.tensor([-math.inf, 2.0]), torch.tensor([0, 0]), 1).item() == pytest.approx(math.log10(50))


def test_a_satisfied_hinge_has_no_gradient_in_any_coordinate() -> None:
    policy, batch = ToyPolicy(ToyShape(1, 4, 10, 8)).double(), pair_batch(num_seeds=1)
    with torch.no_grad():
        policy.biases[2][0, 0, :4] += 60
    gradients = pair_gradients(step(policy, batch, HingeLoss(beta=1.0)), batch)
    assert gradients is not None
    assert gradients["log10_pi/chosen"].tolist() == [-math.inf] * 4
    assert gradients["log_pi/rejected"].tolist() == gradients["logit/chosen"].tolist() == [0.0] * 4


SPEC = ToyPolicySpec(num_seeds=3, width=8)


def adam(parameters: Any) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=1e-2)


def run(module: ObjectiveModule, data: ToyDataModule, folder: Path, **options: Any) -> tuple[Trainer, list[dict[str, Any]]]:
    """Six steps, measured every second, and the rows of the seeds."""
    trainer = fit(module, [ToyLedger(every_n_steps=2)], folder, data=data, max_steps=6, max_epochs=-1, **options)
    assert trainer.log_dir is not None
    return trainer, read_rows(Path(trainer.log_dir), "toy_seeds")


def test_rows_of_a_preference_run(tmp_path: Path) -> None:
    module = PreferenceModule(SPEC, SFTDPOLoss(), adam, cache_dir=str(tmp_path / "cache"))
    trainer, rows = run(module, ToyPreferenceDataModule(num_seeds=3), tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2, 4, 6]
    classes = set(CLASS_OF_KIND.values()) | {"own_chosen_min", "papers_unseen"}
    gradients = {f"gradient/{c}/{side}" for c in ("log10_pi", "log_pi", "logit") for side in ("chosen", "rejected")}
    assert rows[0].keys() == classes | {"step"}
    assert all(row.keys() == classes | gradients | {"step"} for row in rows[1:])
    probs = module.policy.logits().detach().softmax(-1)  # type: ignore[operator]
    own = probs[:, range(4), range(4)]
    assert rows[-1]["own_chosen"] == pytest.approx(own.mean(1).tolist(), rel=1e-5)
    assert rows[-1]["own_chosen_min"] == pytest.approx(own.amin(1).tolist(), rel=1e-5)
    assert rows[-1]["own_rejected"] == pytest.approx(probs[:, range(4), [4, 6, 7, 5]].mean(1).tolist(), rel=1e-5)
    assert rows[-1]["unseen"] == pytest.approx(probs[:, :, 8:].sum(2).mean(1).tolist(), rel=1e-5)
    means = read_rows(Path(trainer.log_dir or ""), "toy")[-1]
    assert means["toy/own_chosen"] == pytest.approx(own.mean().item(), rel=1e-5)
    assert means["toy/spread/own_chosen"] == pytest.approx(own.mean(1).std().item(), rel=1e-4)
    scalars = events(trainer).Scalars("toy/own_chosen")
    assert [point.step for point in scalars] == [0, 1, 2, 4, 6]
    assert scalars[-1].value == pytest.approx(own.mean().item(), rel=1e-5)


def first_gradients(rows: list[dict[str, Any]]) -> Mapping[str, list[float]]:
    return {name: values for name, values in rows[1].items() if name.startswith("gradient/")}


def test_gradients_of_the_first_step_are_the_initial_policys(tmp_path: Path) -> None:
    module = PreferenceModule(SPEC, SFTDPOLoss(beta=0.1, gamma=0.5), adam, cache_dir=str(tmp_path / "cache"))
    _, rows = run(module, ToyPreferenceDataModule(num_seeds=3), tmp_path)
    logps = SPEC.build().logits().detach().log_softmax(-1)
    chosen, rejected = logps[:, range(4), range(4)], logps[:, range(4), [4, 6, 7, 5]]
    # At the start policy and reference agree, so w = 1/2: d_w = beta/2 + gamma, d_l = beta/2.
    measured = first_gradients(rows)
    assert measured["gradient/log_pi/chosen"] == pytest.approx([-0.55] * 3, rel=1e-5)
    assert measured["gradient/log_pi/rejected"] == pytest.approx([0.05] * 3, rel=1e-5)
    assert measured["gradient/log10_pi/chosen"] == pytest.approx((0.55 / chosen.exp()).mean(1).log10().tolist(), rel=1e-4)
    assert measured["gradient/log10_pi/rejected"] == pytest.approx((0.05 / rejected.exp()).mean(1).log10().tolist(), rel=1e-4)
    norms = (1 - 2 * rejected.exp() + logps.exp().square().sum(-1)).sqrt()
    assert measured["gradient/logit/rejected"] == pytest.approx((0.05 * norms).mean(1).tolist(), rel=1e-4)


def test_accumulated_and_mini_batched_steps_are_read_whole(tmp_path: Path) -> None:
    def rows(folder: str, accumulate: int) -> list[dict[str, Any]]:
        module = PreferenceModule(SPEC, SFTDPOLoss(), adam, cache_dir=str(tmp_path / "cache"))
        return run(module, ToyPreferenceDataModule(num_seeds=3, batch_size=2), tmp_path / folder, accumulate=accumulate)[1]

    whole, in_parts = rows("whole", 1), rows("parts", 4)
    for one, other in zip(whole, in_parts, strict=True):
        assert one.keys() == other.keys()
        assert all(other[name] == pytest.approx(one[name], rel=1e-3) for name in one)


def test_supervised_runs_have_the_ledger_and_no_pair_gradients(tmp_path: Path) -> None:
    _, rows = run(SFTModule(SPEC, adam), ToySFTDataModule(scenario=4, num_seeds=3), tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2, 4, 6]
    assert not any(name.startswith("gradient/") for row in rows for name in row)
    # Scenario 4 puts 84% there.
    assert all(after > before for before, after in zip(rows[0]["unseen"], rows[-1]["unseen"], strict=True))


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    data = ToySFTDataModule(num_seeds=1)
    trainer, _ = run(SFTModule(ToyPolicySpec(num_seeds=1, width=8), adam), data, tmp_path)
    assert not any(name.startswith("toy/spread") for name in read_rows(Path(trainer.log_dir or ""), "toy")[-1])
