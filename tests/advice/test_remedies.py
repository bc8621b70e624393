"""Remedies are files, losses say which make sense, and what cannot be tried is listed with its reason."""

from __future__ import annotations

import importlib
import pkgutil
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_modules.losses
from advice.remedies import CannotApply, all_remedies, applied, chosen_remedies, sensible_remedies
from advice.settings import value_at
from lightning_modules.losses.base import Loss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.module import PPOModule
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.reward import RewardModule
from lightning_modules.sft import SFTModule
from lightning_modules.trained import TrainedModule
from tests.advice.rig import ask, dpo_config

ROOT = Path(__file__).parents[2]
KNOWN = all_remedies()
MODULES: dict[str, type[TrainedModule]] = {
    "arithmetic_ppo": PPOModule,
    "arithmetic_rm": RewardModule,
    "sft": SFTModule,
}
"""Shipped config -> the module that names its remedies, where no loss does."""
MODEL_PARTS = ("policy", "reference", "optimizer", "lr_scheduler")


def losses() -> list[type[Loss]]:
    for module in pkgutil.iter_modules(lightning_modules.losses.__path__):
        importlib.import_module(f"lightning_modules.losses.{module.name}")
    found, open_ones = [], [Loss]
    while open_ones:
        one = open_ones.pop()
        found.append(one)
        open_ones += one.__subclasses__()
    return found


def part(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text(encoding="utf-8"))
    return content


def test_what_losses_name_are_files_and_every_file_is_named() -> None:
    named = {name for loss in losses() for name in loss.remedies}
    modules: list[type[TrainedModule]] = [TrainedModule, *MODULES.values()]
    named |= {name for module in modules for name in module.remedies}
    assert named == set(KNOWN)
    page = (ROOT / "docs" / "advise.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == named


def test_a_loss_that_names_a_remedy_has_what_it_takes() -> None:
    """Fields that an overlay reads off the loss exist on every loss that asks for it."""
    facts = {"judge": {"init_args": {}}, "max_new_tokens": 8, "measured": {"centre": 0.5}}
    tried: set[str] = set()
    for loss in losses():
        if not getattr(loss, "__abstractmethods__", True):
            fields = dict.fromkeys(getattr(loss, "__dataclass_fields__", ()), 0.1)
            path = f"{loss.__module__}.{loss.__qualname__}"
            config = {
                **dpo_config_without_files(),
                "model": {"class_path": "x", "init_args": {"loss": {"class_path": path, "init_args": fields}}},
            }
            config["model"]["init_args"] |= {key: {"init_args": {"lr": 1.0}} for key in MODEL_PARTS}
            for name in sensible_remedies(config):
                if KNOWN[name].trains:
                    assert applied(KNOWN[name], config, facts) != config, (path, name)
                    tried.add(name)
    tried |= {name for model in MODULES for name in remedies_applied(model)}
    assert tried == {name for name, remedy in KNOWN.items() if remedy.trains}


def remedies_applied(model: str) -> set[str]:
    """Those that change a shipped config whose module has no loss of ours."""
    config = {**dpo_config_without_files(), "model": part(f"model/{model}.yaml")}
    # As `train.py` saves it: with every argument of the optimizer. PPO's settings are its own defaults.
    config["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] = 0.01
    config["model"]["init_args"].pop("settings", None)
    names = [name for name in sensible_remedies(config) if KNOWN[name].trains]
    assert names == [name for name in MODULES[model].remedies if KNOWN[name].trains]
    changed = set()
    for name in names:
        with suppress(CannotApply):
            assert applied(KNOWN[name], config, {}) != config
            changed.add(name)
    return changed


def test_a_remedy_that_changes_nothing_is_not_tried() -> None:
    config = {**dpo_config_without_files(), "model": part("model/arithmetic_ppo.yaml")}
    stronger = applied(KNOWN["stronger_kl"], config, {})
    assert value_at(stronger, "model.kl.coefficient") == pytest.approx(4 * value_at(config, "model.kl.coefficient"))
    assert value_at(applied(KNOWN["smaller_clip"], config, {}), "model.settings.clip_range") == pytest.approx(0.1)
    with pytest.raises(CannotApply, match="it would change nothing of this run"):
        applied(KNOWN["fewer_epochs"], config, {})
    config["model"]["init_args"] |= {"kl": None, "settings": None}
    assert value_at(applied(KNOWN["stronger_kl"], config, {}), "model.kl") == {
        "coefficient": pytest.approx(4 * KLPenalty().coefficient)
    }
    assert value_at(applied(KNOWN["smaller_clip"], config, {}), "model.settings.clip_range") == PPOSettings().clip_range / 2
    assert value_at(applied(KNOWN["fewer_epochs"], config, {}), "model.settings.num_epochs") == 1
    online = {**dpo_config_without_files(), "model": part("model/arithmetic_on_policy_dpo.yaml")}
    with pytest.raises(CannotApply, match="the run makes its pairs itself already"):
        applied(KNOWN["on_policy"], online, {"judge": {"init_args": {}}, "max_new_tokens": 8})


def dpo_config_without_files() -> dict[str, Any]:
    return {"trainer": {"callbacks": []}, "data": {"class_path": "y", "init_args": {"pool": "z", "batch_size": 4}}}


def test_overlays_read_the_runs_own_numbers(tmp_path: Path) -> None:
    config = dpo_config(tmp_path)
    config["model"]["init_args"]["loss"] = part("model/loss/dpo.yaml") | {"init_args": {"beta": 0.2, "label_smoothing": 0.0}}
    slower = applied(KNOWN["lower_rate"], config, {})
    assert value_at(slower, "model.optimizer.lr") == pytest.approx(value_at(config, "model.optimizer.lr") / 3)
    centred = applied(KNOWN["band_centre"], config, {"measured": {"centre": 0.25}})
    assert value_at(centred, "model.loss.init_args") == {"beta_chosen": 0.2, "beta_rejected": 0.05}
    calibrated = applied(KNOWN["reward_calibration"], config, {})
    assert value_at(calibrated, "model.loss.loss") == value_at(config, "model.loss")
    assert "RewardCalibration" in calibrated["trainer"]["callbacks"][-1]["class_path"]
    assert value_at(config, "model.loss.beta") == 0.2, "the run's own config stays"


def test_a_new_loss_takes_away_what_steered_the_old_one(tmp_path: Path) -> None:
    config = dpo_config(tmp_path)
    config["trainer"]["callbacks"].append({"class_path": "callbacks.control.adaptive_beta.AdaptiveBeta"})
    config["model"]["init_args"]["loss"] = part("model/loss/flex_dpo.yaml")
    for name, stays in (("lower_rate", True), ("likelihood_term", False)):
        kept = [one["class_path"] for one in applied(KNOWN[name], config, {})["trainer"]["callbacks"]]
        assert ("callbacks.control.adaptive_beta.AdaptiveBeta" in kept) is stays


def test_what_cannot_be_tried_says_why(tmp_path: Path) -> None:
    config = dpo_config(tmp_path)
    with pytest.raises(CannotApply, match="no judge reads this run's answers"):
        applied(KNOWN["on_policy"], config, {})
    with pytest.raises(CannotApply, match="nobody measured the disentanglement band"):
        applied(KNOWN["band_centre"], config, {})
    tried, untried = chosen_remedies("lower_rate", config, KNOWN)
    assert [remedy.name for remedy in tried] == ["lower_rate"]
    assert set(untried) == set(KNOWN) - {"lower_rate"}
    with pytest.raises(ValueError, match=r"got 'lower_rates'\. There are: band_centre, "):
        chosen_remedies("lower_rates", config, KNOWN)


def test_all_that_make_sense_for_dpo_are_tried_and_told(run_folder: Path) -> None:
    """Without a judge: the measures that stand in for one decide, and on-policy pairs are listed with the reason."""
    answer = ask(run_folder, "--from", 8, "--steps", 2)
    assert answer.table.row_count == len(DPOLoss.remedies)
    told = [str(cell) for column in answer.table.columns for cell in column.cells]
    untried = {cell.removeprefix("not tried: ") for cell in told if "not tried" in cell}
    assert untried == {KNOWN["on_policy"].needs["judge"]}, "none failed"
    others = [name for name in KNOWN if name not in DPOLoss.remedies]
    assert str(answer.table.caption).endswith(f"Makes no sense for DPOLoss: {', '.join(others)}.")
    assert [column.header for column in answer.table.columns][2:-1] == [
        "reward accuracy, held-out pairs",
        "ranking by log pi, held-out pairs",
        "repetition in samples",
        "mass off everything known, a token",
    ]
    assert answer.sentence.startswith("None helped beyond noise") or answer.recommended is not None
