"""A run of PPO that is stopped anywhere and resumed takes the same bits as one that was not; and the same under kill -9."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.saving.checkpoint import RunCheckpoint
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.optimization.schedules import CosineSchedule
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.rewards.judge_reward import JudgeReward
from tests.lightning_modules.ppo.rig import EvenJudge, Prompts, fit, module
from tests.lightning_modules.stubs import TINY
from tests.test_resume import differences

pytestmark = [
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]

STEPS = 9
"""Two rollouts of four updates, and the first update over a third."""

adam = partial(AdamW, lr=0.02)


def ppo() -> Any:
    schedule = partial(CosineSchedule, num_steps=12)
    settings = PPOSettings(num_epochs=2, num_minibatches=2)
    return module(optimizer=adam, lr_scheduler=schedule, kl=KLPenalty(0.1, target=0.5, horizon=20), settings=settings)


def on_policy() -> Any:
    return OnPolicyPreferenceModule(TINY, DPOLoss(beta=0.5), [JudgeReward(EvenJudge())], adam)


def run(make: Any, folder: Path, resume: Path | None = None) -> dict[str, Any]:
    checkpoint = RunCheckpoint(every_n_train_steps=1, keep_all=True)
    callbacks = [checkpoint, LikelihoodMonitor(1, 2)]
    # resumption is by path, as on the command line
    fit(folder, make(), Prompts(), callbacks, max_steps=STEPS, enable_checkpointing=True, ckpt_path=resume)
    found = {
        step: next(folder.rglob(f"epoch=*-step={step}.ckpt")) for step in range(STEPS, 0, -1) if resume is None or step == STEPS
    }
    return {"paths": found, "state": torch.load(found[STEPS], weights_only=True)}


@pytest.mark.parametrize(("make", "steps"), [(ppo, (1, 4, 6)), (on_policy, (3,))], ids=["ppo", "on_policy"])
def test_resumed_from_any_step_it_ends_in_the_same_bits(make: Any, steps: tuple[int, ...], tmp_path: Path) -> None:
    """From the middle of a rollout's epochs, from between two rollouts, and from the middle of the second."""
    whole = run(make, tmp_path / "whole")
    for step in steps:
        resumed = run(make, tmp_path / f"from_{step}", whole["paths"][step])
        for state in (whole["state"], resumed["state"]):
            state["callbacks"] = {key: value for key, value in state["callbacks"].items() if not key.startswith("RunCheckpoint")}
        assert list(differences(whole["state"], resumed["state"])) == [], step


def test_a_checkpoint_in_the_middle_holds_the_rollout(tmp_path: Path) -> None:
    state = torch.load(run(ppo, tmp_path)["paths"][6], weights_only=True)["ppo"]
    assert (state["number"], state["position"]) == (1, 2)
    assert {"old_logps", "reference_logps", "advantages", "old_values", "returns"} == set(state["rollout"]["table"])
    assert sum(len(ids) for group in state["rollout"]["completions"] for ids in group) == len(state["rollout"]["table"]["returns"])
