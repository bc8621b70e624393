"""Recipes from configs, and adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.policy import PolicySpec
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from tests.lightning_modules.models.architectures import config, make_batch

PLAIN = RandomPolicy(config("llama"), seed=1)
ADAPTED = replace(PLAIN, lora=LoraSpec(r=2, alpha=4.0))


def test_a_config_names_a_recipe_by_its_class() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--policy", type=PolicySpec)
    given = {
        "class_path": "lightning_modules.models.specs.RandomPolicy",
        "init_args": {"config": config("llama"), "seed": 1, "lora": {"r": 2, "alpha": 4.0, "target_modules": ["q_proj"]}},
    }
    spec = parser.instantiate_classes(parser.parse_object({"policy": given})).policy
    assert spec == replace(PLAIN, lora=LoraSpec(2, 4.0, ["q_proj"]))
    assert spec.build().fingerprint() == spec.build().fingerprint()


def test_adapters_start_as_the_base_and_only_they_are_trained() -> None:
    plain, adapted, batch = PLAIN.build(), ADAPTED.build(), make_batch()
    torch.testing.assert_close(adapted(batch).logps, plain(batch).logps)
    adapted(batch).logps.sum().backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in adapted.named_parameters() if parameter.grad is not None} == trained
    # Seven linear layers in each of two blocks, two factors each; the output layer has none.
    assert len(trained) == 2 * 7 * 2
    assert all(".lora_" in name for name in trained)


def test_two_builds_have_the_same_adapters_and_the_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert ADAPTED.build().fingerprint() == ADAPTED.build().fingerprint()
    assert torch.equal(torch.rand(1), expected)


def test_trained_adapters_are_saved_merged(tmp_path: Path) -> None:
    policy, batch = ADAPTED.build(), make_batch()
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        policy(batch).logps.mean().neg().backward()
        optimizer.step()
    before = policy(batch).logps
    assert (before - PLAIN.build()(batch).logps).abs().max() > 0.01
    policy.save(tmp_path / "merged")
    assert torch.equal(policy(batch).logps, before)
    merged = PretrainedPolicy(str(tmp_path / "merged")).build()
    torch.testing.assert_close(merged(batch).logps, before, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name in merged.state_dict())


def test_adapters_beside_half_precision_weights_are_float32() -> None:
    policy = replace(ADAPTED, dtype="bfloat16").build()
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    policy = PLAIN.build()
    state = {name: value for name, value in policy.model.state_dict().items() if "layers.1.mlp" not in name}
    policy.model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"all weights of LlamaForCausalLM in .* 3 are missing \(model\.layers\.1\.mlp\.down_proj"):
        PretrainedPolicy(str(tmp_path)).build()


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank of at least 1, got 0"):
        LoraSpec(r=0)


def test_an_unknown_backend_is_refused_before_the_weights_are_loaded() -> None:
    with pytest.raises(ValueError, match="expected attention to be auto or one of"):
        PretrainedPolicy("no/such/model", attention="fastest").build()
