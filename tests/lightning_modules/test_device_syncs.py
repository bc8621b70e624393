"""The host waits for the device once per logged point, and once for each diagnostic that is due, in every stage.

Counted on a pretended device: reading a number, asking for a size that the device has to tell, and copies that are waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import SGD

from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.disentanglement import DisentanglementMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.reward_monitor import RewardMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from datamodules.contracts.batches import Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from lightning_modules.losses.base import PreferenceLoss
from lightning_modules.losses.bradley_terry import BradleyTerry
from lightning_modules.losses.calibrated import CalibratedLoss
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.losses.odpo import ODPOLoss
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.ppo.module import PPOModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.reward import RewardModule
from lightning_modules.rewards.judge_reward import JudgeReward
from lightning_modules.sft import SFTModule
from lightning_modules.trained import TrainedModule
from tests.lightning_modules.ppo import rig
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs
from tests.pretend_device import DEVICE, pretend_device, waits
from tests.tiny import write_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]

EVERY = 2
"""Steps between logged points, and between due diagnostics."""


class LeavesOut(SGD):
    """SGD that sees by itself that a step is not finite, as torch's fused optimizers do on a GPU."""

    _step_supports_amp_scaling = True
    found_inf: torch.Tensor

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(torch.where(self.found_inf > 0, 0.0, group["lr"] * parameter.grad))
        return loss


class Begin(Callback):
    """Counts from here, behind what samples for the step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.context = waits()
        self.places = self.context.__enter__()


class End(Callback):
    """Counts up to here, behind the diagnostics."""

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.steps: list[list[str]] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.begin.context.__exit__(None, None, None)
        self.steps.append(self.begin.places)


def scored(pairs: Sequence[Example], *more: TokenizedCompletion) -> list[Example]:
    """Pairs with scores 2 and 0.5, and more completions."""
    return [
        replace(pair, completions=(*(replace(c, score=2 - 1.5 * n) for n, c in enumerate(pair.completions)), *more))
        for pair in pairs
    ]


def fit(
    folder: Path, module: TrainedModule, examples: Sequence[Example] | None, monitors: Sequence[Callback]
) -> tuple[Trainer, list[list[str]]]:
    """Train on the pretended device; where the host waited in each step."""
    data = rig.Prompts(max_new_tokens=2) if examples is None else InMemoryPairs(list(examples), [[0, 1], [2, 3]] * 4, 1)
    end = End(Begin())
    with pretend_device(), patch.object(CPUAccelerator, "setup_device"):
        trainer = Trainer(
            accelerator="cpu",
            strategy=SingleDeviceStrategy(device=DEVICE),
            max_steps=2 * EVERY,
            log_every_n_steps=EVERY,
            gradient_clip_val=1.0 if module.automatic_optimization else None,
            limit_val_batches=0,
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[TQDMProgressBar(), end.begin, *monitors, end],
        )
        trainer.fit(module, datamodule=data)
    return trainer, end.steps


def require_one_read_a_point(steps: list[list[str]], number_of_monitors: int) -> None:
    """The first step is measured, too, but not logged."""
    assert len(steps) == 2 * EVERY
    for step, places in enumerate(steps, 1):
        is_logged, is_due = step % EVERY == 0, step == 1 or step % EVERY == 0
        assert len(places) == is_logged + number_of_monitors * is_due, (step, places)


def token_monitors() -> list[Callback]:
    """Those of the default configuration that need no pairs, on the batches of the training."""
    return [LikelihoodMonitor(EVERY), SoftmaxGradientMonitor(EVERY, histogram_every_n_steps=EVERY), DispersionMonitor(EVERY)]


def pair_monitors() -> list[Callback]:
    """And those that do."""
    return [
        *token_monitors(),
        DegradationMonitor(EVERY),
        DisentanglementMonitor(EVERY),
    ]


optimizer = partial(LeavesOut, lr=1e-3)
SMALL = replace(TINY, config=TINY.config | {"num_hidden_layers": 1})


@pytest.mark.parametrize("loss", [DPOLoss(beta=0.5), CalibratedLoss(loss=ODPOLoss())], ids=["dpo", "odpo"])
def test_preferences(tmp_path: Path, loss: PreferenceLoss) -> None:
    module = PreferenceModule(SMALL, loss, optimizer, cache_dir=str(tmp_path))
    monitors = pair_monitors()
    trainer, steps = fit(tmp_path / "run", module, scored(make_pairs(4)), monitors)
    require_one_read_a_point(steps, len(monitors))
    # What callbacks and the bar read is on the host.
    assert trainer.callback_metrics["train/loss"].device.type == "cpu"
    assert trainer.progress_bar_metrics["loss"] == pytest.approx(trainer.callback_metrics["train/loss"].item())


def test_supervised(tmp_path: Path) -> None:
    monitors = token_monitors()
    _, steps = fit(tmp_path, SFTModule(SMALL, optimizer), make_pairs(4), monitors)
    require_one_read_a_point(steps, len(monitors))


RANKED = TokenizedCompletion((4, 5), Role.SAMPLE, "ranked", 1.0)


@pytest.mark.parametrize(("margin", "more"), [(0.0, ()), (0.5, ()), (0.5, (RANKED,))], ids=["pairs", "margins", "ranked"])
def test_reward_models(tmp_path: Path, margin: float, more: tuple[TokenizedCompletion, ...]) -> None:
    spec = RewardModelSpec(str(write_model(tmp_path / "model")), num_layers=1)
    module = RewardModule(spec, optimizer, loss=BradleyTerry(margin_per_point=margin))
    _, steps = fit(tmp_path / "run", module, scored(make_pairs(4), *more), [RewardMonitor(EVERY)])
    require_one_read_a_point(steps, 1)


def test_on_policy_preferences(tmp_path: Path) -> None:
    module = OnPolicyPreferenceModule(SMALL, DPOLoss(beta=0.5), [JudgeReward(rig.EvenJudge())], optimizer)
    monitors = pair_monitors()
    _, steps = fit(tmp_path, module, None, monitors)
    require_one_read_a_point(steps, len(monitors))


def test_ppo(tmp_path: Path) -> None:
    monitors = token_monitors()
    module = PPOModule(SMALL, [JudgeReward(rig.EvenJudge())], optimizer)
    _, steps = fit(tmp_path, module, None, monitors)
    require_one_read_a_point(steps, len(monitors))
