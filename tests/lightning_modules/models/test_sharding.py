"""A sharded model (FSDP2) is the whole one: sampled, identified, and read by a critic. One rank; two are in test_strategies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from datamodules.contracts.batches import CompletionBatch, Role
from datamodules.contracts.examples import Example, TokenizedCompletion
from datamodules.contracts.packing import pack
from datamodules.contracts.prompts import Sampling
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.scalars.critic import CriticSpec, OwnBody, SharedBody
from lightning_modules.models.sharding import whole, whole_copy
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.optimization.precision import gathering_of
from tests import tiny

CONFIG = tiny.POLICY["init_args"]["config"]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def build(**options: Any) -> CausalLMPolicy:
    tied = options.pop("tied", False)
    return RandomPolicy(CONFIG | {"tie_word_embeddings": tied}, seed=3, **options).build()


def example() -> CompletionBatch:
    completions = (TokenizedCompletion((5, 6, 2), Role.CHOSEN, "chosen"), TokenizedCompletion((7, 2), Role.REJECTED, "rejected"))
    return pack([Example((3, 4), completions)])


@pytest.mark.parametrize(
    "options", [{}, {"tied": True}, {"layout": "padded"}, {"lora": LoraSpec(r=2)}, {"gradient_checkpointing": True}], ids=str
)
def test_a_sharded_policy_samples_as_the_whole_one(mesh: DeviceMesh, options: dict[str, Any]) -> None:
    whole_one, sharded = build(**options), build(**options)
    sharded.shard(mesh)
    parameters = Sampling(max_new_tokens=12)
    # Before the first forward pass, between passes, and after a backward pass: other groups are gathered each time.
    for _ in range(2):
        drawn = [
            policy.generate([[3, 4], [5]], parameters, num_samples=3, eos_token_id=2, seed=1) for policy in (whole_one, sharded)
        ]
        assert [[s.token_ids for s in group] for group in drawn[0]] == [[s.token_ids for s in group] for group in drawn[1]]
        assert len({sample.token_ids for group in drawn[1] for sample in group}) > 3
        for policy in (whole_one, sharded):
            policy(example()).logps.sum().backward()
    gradients = {name: parameter.grad for name, parameter in whole_one.named_parameters() if parameter.grad is not None}
    for name, parameter in sharded.named_parameters():
        assert isinstance(parameter, DTensor), name
        if name in gradients:
            assert parameter.grad is not None
            torch.testing.assert_close(whole(parameter.grad), gradients[name])
    assert "_whole" not in dict(sharded.named_children())


def test_a_sharded_policy_has_the_fingerprint_of_the_whole_one(mesh: DeviceMesh) -> None:
    for tied in (False, True):
        whole_one, sharded = build(tied=tied), build(tied=tied)
        sharded.shard(mesh)
        assert sharded.fingerprint() == whole_one.fingerprint()
        # Layers are of one shape: each of them has to count.
        layer = sharded.model.get_submodule("model.layers.1.mlp.up_proj")
        with torch.no_grad():
            layer.weight.mul_(2)
        assert sharded.fingerprint() != whole_one.fingerprint()


@pytest.mark.parametrize("spec", [OwnBody(), SharedBody()], ids=["own", "shared"])
def test_a_sharded_critic_is_the_whole_one(mesh: DeviceMesh, spec: CriticSpec) -> None:
    values, gradients = [], []
    for shards in (False, True):
        policy = build()
        critic = spec.build(policy)
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.add_(0.01)
        if shards:
            critic.shard(mesh)
            assert all(isinstance(parameter, DTensor) for parameter in critic.parameters())
        batch = example()
        values.append(critic(batch, policy(batch)))
        values[-1].square().sum().backward()
        found = {name: parameter.grad for name, parameter in critic.named_parameters()}
        gradients.append({name: whole(gradient) for name, gradient in found.items() if gradient is not None})
    torch.testing.assert_close(values[1], values[0])
    assert gradients[0].keys() == gradients[1].keys()
    assert any(gradient.any() for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0])


def test_layers_are_gathered_in_bfloat16_and_the_head_computes_in_float32(mesh: DeviceMesh) -> None:
    """Under autocast the log-probs and gradients of one process, whose products have bfloat16 weights too."""
    whole_one, sharded = build(), build()
    sharded.shard(mesh, gathering_of(MixedPrecision("bf16-mixed", "cpu")))
    found: dict[str, torch.dtype] = {}
    for name in ("layers.1.mlp.up_proj", "norm", "embed_tokens"):
        sharded.model.get_submodule(f"model.{name}").register_forward_pre_hook(
            lambda module, _, name=name: found.update({name: module.weight.dtype})
        )
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = sharded(example()).logps, whole_one(example()).logps
        copied = whole_copy(sharded, as_computed=True)(example()).logps
    assert found == {"layers.1.mlp.up_proj": torch.bfloat16, "norm": torch.float32, "embed_tokens": torch.float32}
    assert torch.equal(copied, ours), "what PPO divides by is what its updates compute"
    torch.testing.assert_close(ours, theirs)
    for logps in (ours, theirs):
        logps.sum().backward()
    for (name, one), other in zip(sharded.named_parameters(), whole_one.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert one.grad is not None
        assert other.grad is not None
        gradient = whole(one.grad)
        assert gradient.dtype == torch.float32
        assert float((gradient - other.grad).norm()) <= 0.01 * float(other.grad.norm()), name
    assert {parameter.dtype for parameter in whole_copy(sharded).parameters()} == {torch.float32}


@pytest.mark.parametrize("options", [{}, {"lora": LoraSpec(r=2)}], ids=["plain", "lora"])
def test_a_whole_copy_stays_when_the_original_is_sharded_again(mesh: DeviceMesh, options: dict[str, Any], tmp_path: Path) -> None:
    """After a pass without backward the root group stays gathered, and its memory goes when the model is asked for its state."""
    whole_one, sharded = build(**options), build(**options)
    sharded.shard(mesh)
    with torch.no_grad():
        sharded(example())
    copied = whole_copy(sharded)
    sharded.state_dict()
    torch.testing.assert_close(dict(copied.state_dict()), dict(whole_one.state_dict()))
    with torch.no_grad():
        sharded(example())
    sharded.save(tmp_path / "sharded")
    whole_one.save(tmp_path / "whole")
    torch.testing.assert_close(*(load_file(tmp_path / name / "model.safetensors") for name in ("sharded", "whole")))
