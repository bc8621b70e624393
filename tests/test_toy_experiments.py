"""The toy's experiments from the command line: each step alone, and the hand-over from one to the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from callbacks.diagnostics.toy_ledger import CLASS_OF_KIND
from datamodules.toy.scenarios import SCENARIOS
from lightning_modules.models.toy import specs as toy_specs
from lightning_modules.models.toy.policy import ToyPolicy
from lightning_modules.models.toy.specs import SavedToyPolicySpec, ToyPolicySpec, fit_rows
from lightning_modules.objective_module import ObjectiveModule
from run_folder.rows import read_rows
from tests.conftest import Run

EXPERIMENTS = Path(__file__).parents[1] / "configs" / "experiment"
SAVED = "lightning_modules.models.toy.specs.SavedToyPolicySpec"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and caches go where the command is given."""
    monkeypatch.chdir(tmp_path)


def fit(run: Run, experiment: str, *arguments: object, steps: int = 4) -> tuple[Path, ToyPolicy]:
    """Run an experiment with two seeds; its folder, and the policy at the end."""
    config = EXPERIMENTS / f"{experiment}.yaml"
    cli = run("fit", "--config", config, "--data.num_seeds", 2, "--trainer.max_steps", steps, *arguments)
    return Path(cast(str, cli.trainer.log_dir)), cast(ToyPolicy, cast(ObjectiveModule, cli.model).policy)


def ledger(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder, "toy_seeds")


@pytest.mark.parametrize("scenario", [2, 4])
def test_preference_training_starts_at_the_scenarios_row(scenario: int, run: Run) -> None:
    folder, _ = fit(run, "toy_dpo", "--data.init_args.scenario", scenario, "--model.policy.width", 32)
    assert folder.parent.name == "toy_dpo"
    start, row = ledger(folder)[0], SCENARIOS[scenario].row
    assert start["own_chosen"] == pytest.approx([row[0]] * 2, abs=5e-3)
    assert start["own_rejected"] == pytest.approx([row[4]] * 2, abs=5e-3)
    assert start["unseen"] == pytest.approx([row[8] + row[9]] * 2, abs=1e-2)
    kinds = {"dispersion", "likelihood", "softmax_grad", "degradation", "toy", "toy_seeds"}
    assert kinds <= {path.stem for path in (folder / "diagnostics").iterdir()}


def test_the_sft_step_alone_is_the_fit_that_preference_training_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, policy = fit(run, "toy_sft", "--data.scenario", 2, "--model.policy.width", 16, steps=60)
    fitted = ToyPolicySpec(num_seeds=2, width=16).build()
    fit_rows(fitted, torch.tensor(SCENARIOS[2].row), steps=60)
    torch.testing.assert_close(policy.logits(), fitted.logits(), atol=1e-4, rtol=1e-4)
    # The run of its own takes as many steps, at the same rate.
    assert _value("trainer/toy_sft", "max_steps") == toy_specs.FIT_STEPS
    assert _value("model/toy_sft", "init_args", "optimizer", "init_args", "lr") == toy_specs.FIT_LR


def ledger_cadence(trainer: str) -> int:
    """Optimizer steps between the ledger's rows, as the trainer part has it."""
    callbacks = cast(list[dict[str, Any]], _value(f"trainer/{trainer}", "callbacks"))
    return int(next(item["init_args"]["every_n_steps"] for item in callbacks if item["class_path"].endswith("ToyLedger")))


def _value(part: str, *keys: str) -> object:
    value = yaml.safe_load((EXPERIMENTS.parent / f"{part}.yaml").read_text(encoding="utf-8"))
    for key in keys:
        value = value[key]
    return value


def test_preference_training_goes_on_from_the_saved_policy_of_an_sft_run(run: Run) -> None:
    first, policy = fit(run, "toy_sft", "--data.scenario", 4, "--model.policy.width", 16)
    saved = first / "policy"
    assert SavedToyPolicySpec(str(saved)).build().fingerprint() == policy.fingerprint()
    second, _ = fit(run, "toy_dpo", "--data.scenario", 4, "--model.policy", SAVED, "--model.policy.path", saved)
    end, start = ledger(first)[-1], ledger(second)[0]
    assert all(start[name] == pytest.approx(end[name], rel=1e-6) for name in start if name != "step")


def test_other_losses_mini_batches_and_random_rejected(run: Run) -> None:
    loss = EXPERIMENTS.parent / "model" / "loss" / "ipo.yaml"
    options = ("--data.batch_size", 1, "--data.rejected", "random", "--data.seed", 3, "--model.policy.width", 8)
    folder, _ = fit(run, "toy_dpo", "--model.loss", loss, *options, steps=20)
    rows = ledger(folder)
    cadence = ledger_cadence("toy_dpo")
    assert [row["step"] for row in rows] == [0, 1, *range(cadence, 21, cadence)]
    assert all(sum(row[name][0] for name in CLASS_OF_KIND.values()) == pytest.approx(1, abs=1e-6) for row in rows)
