"""The critic that PPO takes by default, over policies that are not plain Llamas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datamodules.contracts.packing import pack
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.scalars.critic import OwnBody
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.ppo.settings import PPOSettings
from tests.lightning_modules.ppo.rig import fit, module
from tests.lightning_modules.stubs import TINY, make_pairs

ADAPTED = replace(TINY, lora=LoraSpec(r=2))


def opt() -> RandomPolicy:
    sizes = {"hidden_size": 16, "ffn_dim": 24, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    return RandomPolicy({"model_type": "opt", "vocab_size": 31, "max_position_embeddings": 64} | sizes)


@pytest.mark.parametrize("spec", [TINY, ADAPTED, opt()], ids=["plain", "lora", "opt"])
def test_its_body_computes_what_the_policys_does(spec: RandomPolicy) -> None:
    """Adapters that have learnt something are in the copy, and nothing of it is frozen."""
    policy = spec.build()
    assert isinstance(policy, CausalLMPolicy)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    critic = OwnBody().build(policy)
    torch.nn.init.normal_(critic.model.head.weight, generator=torch.Generator().manual_seed(2))
    batch = pack(make_pairs(2))
    with torch.no_grad():
        hidden = policy(batch).hidden
        assert hidden is not None
        torch.testing.assert_close(critic(batch, None), critic.model.head(hidden).squeeze(1), atol=1e-5, rtol=1e-5)
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_it_is_compiled_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(
        "lightning_modules.models.layers.layer_options.compile_layers", lambda model, checkpoints: compiled.append(model)
    )
    plain, other = (OwnBody(compile=compiles).build(TINY.build()) for compiles in (False, True))
    assert compiled == [other.model.model]
    assert plain.model.model is not other.model.model


@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`", "ignore:Rollout")
def test_ppo_trains_adapters_beside_a_whole_critic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lightning_modules.ppo.rig.TINY", ADAPTED)
    ppo = module(settings=PPOSettings(num_minibatches=1))
    fit(tmp_path, ppo, max_steps=3)
    before, after = ADAPTED.build().state_dict(), ppo.policy.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".lora_" in name for name in moved)
    assert ppo.critic is not None
    start, critic = OwnBody().build(ADAPTED.build()).state_dict(), ppo.critic.state_dict()
    assert not torch.equal(critic["model.model.score.weight"], start["model.model.score.weight"])
    assert not torch.equal(
        critic["model.model.model.layers.0.mlp.up_proj.weight"], start["model.model.model.layers.0.mlp.up_proj.weight"]
    )


def test_a_model_without_a_classifier_is_refused_in_words() -> None:
    granite = RandomPolicy(TINY.config | {"model_type": "granite"}).build()
    with pytest.raises(ValueError, match=r"a sequence classifier in transformers, got granite.*SharedBody"):
        OwnBody().build(granite)
