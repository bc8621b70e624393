"""Adapters of experts, which transformers keeps as one parameter of three dimensions: trained, merged, read by peft, sharded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.distributed.device_mesh import DeviceMesh
from transformers import AutoModelForCausalLM

from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.sharding import whole
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from tests import tiny
from tests.lightning_modules.models.test_sharding import example, mesh

__all__ = ["mesh"]
CONFIG = tiny.POLICY["init_args"]["config"] | {"num_experts_per_tok": 2}
GATED = ["q_proj", "gate_proj", "up_proj", "down_proj"]
FAMILIES: Mapping[str, tuple[dict[str, Any], list[str] | str]] = {
    "mixtral": ({"num_local_experts": 4}, "all-linear"),
    "qwen3_moe": ({"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}, GATED),
    "olmoe": ({"num_experts": 4}, GATED),
}


def base(family: str) -> RandomPolicy:
    return RandomPolicy(CONFIG | {"model_type": family, **FAMILIES[family][0]}, seed=3)


def adapted(folder: Path, family: str) -> CausalLMPolicy:
    """With experts among what is adapted, all of which say something."""
    policy = PretrainedPolicy(path=str(folder), lora=LoraSpec(r=2, target_modules=FAMILIES[family][1])).build()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return policy


# Of peft's own translation to fused experts.
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys", "ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_merged_and_read_by_peft(family: str, tmp_path: Path) -> None:
    base(family).build().save(tmp_path / "base")
    policy = adapted(tmp_path / "base", family)
    policy(example()).logps.sum().backward()
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert any("experts" in name for name in trained)
    assert all(".lora_" in name and parameter.grad is not None for name, parameter in trained.items())
    policy.save(tmp_path / "trained")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        ours = policy(example()).logps
        assert (ours - base(family).build()(example()).logps).abs().max() > 0.05
        torch.testing.assert_close(PretrainedPolicy(path=str(tmp_path / "trained")).build()(example()).logps, ours)
        theirs = PeftModel.from_pretrained(plain, str(tmp_path / "trained/adapter"))(torch.tensor([[3, 4, 5, 6, 2]])).logits
        expected = theirs.log_softmax(-1)[0, 1:4].gather(1, torch.tensor([[5], [6], [2]])).flatten()
        torch.testing.assert_close(ours[:3], expected)


def test_sharded_they_have_the_gradients_of_the_whole(mesh: DeviceMesh, tmp_path: Path) -> None:
    base("qwen3_moe").build().save(tmp_path / "base")
    alone, sharded = (adapted(tmp_path / "base", "qwen3_moe") for _ in range(2))
    sharded.shard(mesh)
    for policy in (alone, sharded):
        policy(example()).logps.sum().backward()
    for (name, one), other in zip(alone.named_parameters(), sharded.parameters(), strict=True):
        if one.grad is not None:
            assert other.grad is not None
            torch.testing.assert_close(whole(other.grad), one.grad, msg=name)
