from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD

from callbacks.diagnostics.likelihood import LikelihoodMonitor, drop_gap, drop_share, likelihoods, valley_tokens
from callbacks.saving.checkpoint import RunCheckpoint
from datamodules.contracts.packing import pack
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.preference import PreferenceModule
from lightning_modules.sft import SFTModule
from run_folder.rows import read_rows
from tests.callbacks.rig import (
    PAIRS,
    BigramPolicy,
    BigramSpec,
    InterruptAt,
    Interrupted,
    ProbedPairs,
    events,
    fit,
    pair,
    supervised,
)

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

FOUR_STEPS = [[0, 1, 2], [3, 4], [0, 1], [2, 3, 4]]


def dpo(folder: Path) -> PreferenceModule:
    return PreferenceModule(BigramSpec(), DPOLoss(beta=0.5), partial(SGD, lr=0.3), cache_dir=str(folder / "cache"))


def rows_of(trainer: Trainer) -> list[dict[str, Any]]:
    return read_rows(Path(trainer.log_dir or ""), "likelihood")


@pytest.mark.parametrize(
    ("chosen", "rejected", "share"),
    [
        (1.0, -3.0, 0.75),
        (-1.0, -3.0, 1.5),
        (2.0, 1.0, -1.0),
        (2.0, 0.0, 0.0),
        (0.001, -0.001, None),
        (-3.0, 1.0, None),
    ],
)
def test_drop_share_of_the_margin(chosen: float, rejected: float, share: float | None) -> None:
    assert drop_share(chosen, rejected) == share


def test_single_completions_have_no_margin_to_share() -> None:
    changes = {"likelihood/chosen/change": -1.0, "likelihood/rejected/change": -2.0}
    assert "likelihood/drop_share" not in LikelihoodMonitor(1, 1).finish(changes)
    assert LikelihoodMonitor(1, 1).finish(changes | {"likelihood/drop_gap": -1.0})["likelihood/drop_share"] == 2.0


def test_sums_per_token_changes_and_gap_by_hand() -> None:
    batch = pack([pair([1], [2, 3], [4, 5, 6]), pair([1], [2], [3])])
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0, -8.0, -0.5, -0.25])
    baseline = torch.tensor([-1.5, -2.0, -2.0, -2.0, -2.0, -1.0, -0.25])
    found = {name: values.tolist() for name, values in likelihoods(batch, logps, baseline).items()}
    assert found == {
        "chosen/logp": [-3.0, -0.5],
        "chosen/logp_per_token": [-1.5, -0.5],
        "chosen/change": [0.5, 0.5],
        "chosen/change_per_token": [0.25, 0.5],
        "rejected/logp": [-15.0, -0.25],
        "rejected/logp_per_token": [-5.0, -0.25],
        "rejected/change": [-9.0, 0.0],
        "rejected/change_per_token": [-3.0, 0.0],
    }
    assert drop_gap(batch, logps, baseline).tolist() == [-3.25, -0.5]
    valley = {name: values.tolist() for name, values in valley_tokens(batch, logps).items()}
    # exp(-6.9) is just above 1e-3, exp(-8) below.
    assert valley == {"chosen/valley": [False] * 3, "rejected/valley": [False, False, True, False]}


def test_rows_follow_the_policy_from_step_to_step(tmp_path: Path) -> None:
    class Policies(Callback):
        def __init__(self) -> None:
            self.after: dict[int, dict[str, torch.Tensor]] = {}

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.after[trainer.global_step] = {k: v.clone() for k, v in pl_module.policy.state_dict().items()}

        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            self.after[trainer.global_step] = pl_module.policy.state_dict()

    policies, data = Policies(), ProbedPairs(PAIRS, FOUR_STEPS, 1)
    trainer = fit(dpo(tmp_path), [LikelihoodMonitor(every_n_steps=1, probe_every_n_steps=2), policies], tmp_path, data=data)
    rows = {row["step"]: row for row in rows_of(trainer)}
    assert list(rows) == [0, 1, 2, 3, 4]
    policy = BigramPolicy()

    def logps(step: int, numbers: list[int], side: int) -> torch.Tensor:
        policy.load_state_dict(policies.after[step])
        with torch.no_grad():
            return policy.forward(pack([PAIRS[i] for i in numbers])).sum_by_sequence()[side::2]

    for step, numbers in enumerate(FOUR_STEPS, start=1):
        # Training batches: the policy the step started from. Bank: the policy after it.
        for side, name in enumerate(("chosen", "rejected")):
            now, start = logps(step - 1, numbers, side), logps(0, numbers, side)
            assert rows[step][f"likelihood/{name}/logp"] == pytest.approx(now.mean().item(), rel=1e-5)
            assert rows[step][f"likelihood/{name}/change"] == pytest.approx((now - start).mean().item(), abs=1e-5)
            assert rows[step][f"likelihood/{name}/change/p50"] == pytest.approx((now - start).quantile(0.5).item(), abs=1e-5)
            if step % 2 == 0:
                change = logps(step, [0, 1], side) - logps(0, [0, 1], side)
                lengths = torch.tensor([len(PAIRS[number].completions[side].token_ids) for number in (0, 1)])
                spread = (change / lengths).std(correction=0).item()
                assert rows[step][f"likelihood/bank/{name}/change_per_token_spread"] == pytest.approx(spread, abs=1e-5)
                assert rows[step][f"likelihood/bank/{name}/change"] == pytest.approx(change.mean().item(), abs=1e-5)
    assert not any(name.startswith("likelihood/bank/") for step in (1, 3) for name in rows[step])
    bank = rows[4]
    rose, fell = (bank[f"likelihood/bank/{side}/change"] for side in ("chosen", "rejected"))
    assert rose - fell > 0.5, "the margin has grown, or the next line shows nothing"
    assert bank["likelihood/bank/drop_share"] == pytest.approx(-fell / (rose - fell))
    assert {name.split("/")[2] for name in bank if name.startswith("likelihood/bank/")} == {
        *("chosen", "rejected", "other_chosen", "permuted", "drop_gap", "drop_share")
    }


def test_step_0_is_the_baseline_and_its_changes_are_nothing(tmp_path: Path) -> None:
    trainer = fit(dpo(tmp_path), [LikelihoodMonitor()], tmp_path)
    first, *_, last = rows_of(trainer)
    assert first["step"] == 0
    assert {value for name, value in first.items() if "/change" in name or "drop_gap" in name} == {0.0}
    assert last["step"] == 4, "the bank is read when training ends, whatever the cadence"
    assert last["likelihood/bank/rejected/change"] < -0.1


PER_TOKEN = ("logp_per_token", "change_per_token")


def test_supervised_runs_have_chosen_alone_and_changes_of_the_bank(tmp_path: Path) -> None:
    data = ProbedPairs(supervised(PAIRS), FOUR_STEPS, 1)
    trainer = fit(SFTModule(BigramSpec(), partial(SGD, lr=0.3)), [LikelihoodMonitor(1, 1)], tmp_path, data=data)
    row = rows_of(trainer)[-1]
    means = {name for name in row if not name.endswith(("/p5", "/p50", "/p95"))}
    assert means == {
        "step",
        *(f"likelihood/chosen/{name}" for name in ("logp", "logp_per_token", "valley")),
        *(
            f"likelihood/bank/{kind}/{name}"
            for kind in ("chosen", "other_chosen", "permuted")
            for name in (
                "logp",
                "logp_per_token",
                "logp_per_token_spread",
                "change",
                "change_per_token",
                "change_per_token_spread",
                "valley",
            )
        ),
    }
    assert row["likelihood/bank/chosen/change"] > 0.1


def test_event_files_hold_the_means_of_the_rows(tmp_path: Path) -> None:
    trainer = fit(dpo(tmp_path), [LikelihoodMonitor(1, 2)], tmp_path)
    seen, rows = events(trainer), rows_of(trainer)
    tags = {tag for tag in seen.Tags()["scalars"] if tag.startswith("likelihood/")}
    assert tags == {name for row in rows for name in row if name != "step" and not name.endswith(("/p5", "/p50", "/p95"))}
    for tag in tags:
        expected = [(row["step"], pytest.approx(row[tag], rel=1e-6, abs=1e-9)) for row in rows if tag in row]
        assert [(event.step, event.value) for event in seen.Scalars(tag)] == expected


def test_no_row_without_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(dpo(tmp_path), [LikelihoodMonitor(1, 1)], tmp_path, logger=False)
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_a_resumed_run_counts_from_the_first_runs_step_0(tmp_path: Path) -> None:
    def run(folder: str, *more: Callback, **options: Any) -> Trainer:
        monitors: list[Callback] = [LikelihoodMonitor(1, 1), RunCheckpoint(every_n_train_steps=1)]
        # A fixed batch order stands in for the resumable loader.
        data = ProbedPairs(PAIRS, FOUR_STEPS[2:] if "ckpt_path" in options else FOUR_STEPS, 1)
        return fit(dpo(tmp_path), [*monitors, *more], tmp_path / folder, data=data, **options)

    whole = rows_of(run("whole"))
    with pytest.raises(Interrupted):
        run("cut", InterruptAt(2))
    [checkpoint] = (tmp_path / "cut").rglob("last.ckpt")
    state = torch.load(checkpoint, weights_only=True)["callbacks"]
    assert set(state["LikelihoodMonitor"]) == {"token_logps"}
    resumed = rows_of(run("resumed", ckpt_path=str(checkpoint), max_epochs=2))
    assert [row["step"] for row in whole] == [0, 1, 2, 3, 4]
    assert resumed[:2] == whole[3:5], "bit-equal, and no second step 0"


def test_another_bank_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    monitor = LikelihoodMonitor()
    monitor.load_state_dict({"token_logps": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"expected the probe bank of the checkpoint with 3 scored tokens, got \d+"):
        fit(dpo(tmp_path), [monitor], tmp_path)


def test_the_bank_is_read_on_measured_steps_only() -> None:
    with pytest.raises(ValueError, match=r"expected probe_every_n_steps to be a multiple of every_n_steps = 10, got 25"):
        LikelihoodMonitor(10, 25)


def test_data_without_probes_has_rows_without_a_bank(tmp_path: Path) -> None:
    class NoProbes(ProbedPairs):
        def probe_batches(self) -> Any:
            return iter(())

    rows = rows_of(fit(dpo(tmp_path), [LikelihoodMonitor(1, 1)], tmp_path, data=NoProbes(PAIRS, FOUR_STEPS, 1)))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert not any("/bank/" in name for row in rows for name in row)
