"""Adapters of reward models and critics: what is trained, and what peft and transformers read of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW
from transformers import AutoModelForSequenceClassification

from datamodules.contracts.packing import pack
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.scalars.critic import OwnBody
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.reward import RewardModule
from tests.lightning_modules.ppo.rig import fit, module
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

LORA = LoraSpec(r=2)
IS_TRAINED = (".lora_", "score.weight")

pytestmark = pytest.mark.filterwarnings(
    "ignore:You have overridden `on_after_batch_transfer`",
    "ignore:You defined a `validation_step`",
    "ignore:Rollout",
    "ignore:`is_gradient_checkpointing` is deprecated",
)


def moved(module: torch.nn.Module, start: torch.nn.Module) -> set[str]:
    before = start.state_dict()
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def plain_rewards(model: torch.nn.Module) -> Tensor:
    ids = [[*example.prompt_ids, *completion.token_ids] for example in make_pairs(2) for completion in example.completions]
    return torch.stack([model(torch.tensor([sequence])).logits[0, 0] for sequence in ids])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    TINY.build().save(folder)
    return folder


def test_a_reward_model_is_trained_saved_and_trained_further(base: Path, tmp_path: Path) -> None:
    spec = RewardModelSpec(str(base), lora=LORA)
    trained = RewardModule(spec, partial(AdamW, lr=0.1))
    fit(tmp_path, trained, InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1), max_steps=4)
    model = trained.reward_model
    names = moved(model, spec.build())
    assert any(".lora_" in name for name in names)
    assert all(any(part in name for part in IS_TRAINED) for name in names)
    model.save(tmp_path / "reward_model")
    with torch.no_grad():
        ours = model(pack(make_pairs(2)))
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        adapted = PeftModel.from_pretrained(plain, str(tmp_path / "reward_model/adapter"))
        torch.testing.assert_close(plain_rewards(adapted), ours, atol=1e-6, rtol=1e-6)
        merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward_model")
        torch.testing.assert_close(plain_rewards(merged), ours, atol=1e-6, rtol=1e-6)
        again = RewardModelSpec(str(base), lora=LoraSpec(start_from=str(tmp_path / "reward_model/adapter"))).build()
        assert torch.equal(again(pack(make_pairs(2))), ours)


def test_a_likelihood_is_trained_by_adapters(base: Path, tmp_path: Path) -> None:
    spec = RewardModelSpec(str(base), likelihood_scale=1.0, lora=LORA)
    trained = RewardModule(spec, partial(AdamW, lr=0.1))
    fit(tmp_path, trained, InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1), max_steps=2)
    names = moved(trained.reward_model, spec.build())
    assert names
    assert all(".lora_" in name for name in names)


def test_a_critic_is_trained_by_adapters(tmp_path: Path) -> None:
    ppo = module(critic=OwnBody(lora=LORA), settings=PPOSettings(num_minibatches=1), optimizer=partial(AdamW, lr=0.05))
    fit(tmp_path, ppo, max_steps=3)
    assert ppo.critic is not None
    names = moved(ppo.critic, OwnBody(lora=LORA).build(TINY.build()))
    assert any(".lora_" in name for name in names)
    assert any("score.weight" in name for name in names)
    assert all(any(part in name for part in IS_TRAINED) for name in names)


def test_a_frozen_body_with_adapters_is_refused(base: Path) -> None:
    with pytest.raises(ValueError, match="expected freeze_body: false with lora"):
        RewardModelSpec(str(base), freeze_body=True, lora=LORA)
