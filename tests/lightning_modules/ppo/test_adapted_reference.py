"""Adapters switched off are the reference: what a second model gives, without its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, AdamW

from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.adapters.adapted_base import AdaptedBase
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.adapters.peft_format import save_adapter
from lightning_modules.models.policy import PolicySpec
from lightning_modules.on_policy import OnPolicyPreferenceModule
from lightning_modules.policy_module import PolicyModule
from lightning_modules.ppo.estimators import RLOO
from lightning_modules.ppo.kl_penalty import KLPenalty
from lightning_modules.ppo.module import PPOModule
from lightning_modules.rewards.judge_reward import JudgeReward
from tests.lightning_modules.ppo.rig import EvenJudge, fit
from tests.lightning_modules.stubs import TINY

ADAPTED = replace(TINY, lora=LoraSpec(r=2))
Build = Callable[[PolicySpec | None], PolicyModule]

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`", "ignore:Rollout")


def ppo(reference: PolicySpec | None) -> PolicyModule:
    return PPOModule(ADAPTED, [JudgeReward(EvenJudge())], partial(AdamW, lr=0.05), kl=KLPenalty(0.5), reference=reference)


def rloo(reference: PolicySpec | None) -> PolicyModule:
    optimizer, kl = partial(AdamW, lr=0.05), KLPenalty(0.5)
    return PPOModule(ADAPTED, [JudgeReward(EvenJudge())], optimizer, advantages=RLOO(), kl=kl, reference=reference)


def on_policy(reference: PolicySpec | None) -> PolicyModule:
    return OnPolicyPreferenceModule(ADAPTED, DPOLoss(), [JudgeReward(EvenJudge())], partial(SGD, lr=0.5), reference=reference)


@pytest.mark.parametrize("build", [ppo, rloo, on_policy], ids=["ppo", "rloo", "on_policy"])
def test_the_base_gives_what_a_second_model_does(tmp_path: Path, build: Build) -> None:
    first, second = build(None), build(TINY)
    for name, module in (("first", first), ("second", second)):
        fit(tmp_path / name, module, max_steps=5)
    assert isinstance(first.reference_policy(), AdaptedBase)
    assert not isinstance(second.reference_policy(), AdaptedBase)
    assert first.made_with()["reference"] == second.made_with()["reference"]
    start = ADAPTED.build().state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in first.policy.state_dict().items())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_an_adapter_trained_further_has_a_second_model_as_its_reference(tmp_path: Path) -> None:
    """The base is not what it started as."""
    policy = ADAPTED.build()
    save_adapter(policy.model, tmp_path / "adapter", "base")
    spec = replace(TINY, lora=LoraSpec(start_from=str(tmp_path / "adapter")))
    module = PPOModule(spec, [JudgeReward(EvenJudge())], partial(SGD, lr=0.5))
    fit(tmp_path, module, max_steps=1)
    assert not isinstance(module.reference_policy(), AdaptedBase)
