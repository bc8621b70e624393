"""A policy that is sharded before it has weights is, to the bit, the whole one that is sharded afterwards. Two ranks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from bench.gloo import together
from callbacks.saving.policy_export import PolicyExport
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.sharding import AS_HELD, Gathering
from lightning_modules.models.specs import PretrainedPolicy, RandomPolicy
from lightning_modules.sft import SFTModule
from tests import tiny
from tests.lightning_modules.models.test_sharding import example
from tests.lightning_modules.ppo.rig import fit
from tests.lightning_modules.stubs import InMemoryPairs, make_pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
# Of rows that two ranks do not share evenly.
CONFIG = tiny.POLICY["init_args"]["config"] | {"intermediate_size": 23}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "untied": {},
    "tied": {},
    "bfloat16": {"dtype": "bfloat16"},
    "lora": {"lora": LoraSpec(r=2)},
    "lora_bfloat16": {"lora": LoraSpec(r=2), "dtype": "bfloat16"},
    "checkpointing": {"gradient_checkpointing": True},
    "padded": {"layout": "padded"},
}
REFUSED: Mapping[str, dict[str, Any]] = {"dora": {"lora": LoraSpec(r=2, use_dora=True)}, "experts": {}}
MIXED = Gathering(layers=torch.bfloat16, gradients=torch.float32)


def write(folder: Path) -> None:
    """Models in one file and in many."""
    for name in OPTIONS.keys() | REFUSED.keys():
        config = CONFIG | {"tie_word_embeddings": name == "tied"}
        if name == "experts":
            config |= {"model_type": "mixtral", "num_local_experts": 4, "intermediate_size": 24}
        policy = RandomPolicy(config, seed=3).build()
        policy.model.save_pretrained(folder / name, max_shard_size="8KB" if name in ("lora", "tied") else "1GB")


def own_parts(policy: CausalLMPolicy) -> dict[str, torch.Tensor]:
    named = dict(policy.named_parameters(remove_duplicate=False)) | dict(policy.named_buffers())
    return {name: value.to_local() if isinstance(value, DTensor) else value for name, value in named.items()}


def compare(folder: Path) -> None:
    """In each process."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for name, options in OPTIONS.items():
        for gathering in (AS_HELD, MIXED) if options.get("dtype") is None else (AS_HELD,):
            spec = PretrainedPolicy(path=str(folder / name), **options)
            before, after = spec.build(), spec.build_sharded(mesh, gathering)
            before.shard(mesh, gathering)
            assert after is not None, name
            same_model(before, after, gathering)
            assert (after.starts_as_base, after.adapted_path) == (before.starts_as_base, before.adapted_path)
    for name, options in REFUSED.items():
        assert PretrainedPolicy(path=str(folder / name), **options).build_sharded(mesh) is None


def same_model(before: CausalLMPolicy, after: CausalLMPolicy, gathering: Gathering) -> None:
    assert before.fingerprint() == after.fingerprint()
    assert before.model.generation_config.to_dict() == after.model.generation_config.to_dict()
    assert before.training == after.training
    ties = [len(set(map(id, policy.parameters()))) for policy in (before, after)]
    assert ties[0] == ties[1]
    for _ in range(2):
        parts, others = own_parts(before), own_parts(after)
        assert parts.keys() == others.keys()
        for name, part in parts.items():
            assert part.dtype == others[name].dtype
            assert torch.equal(part, others[name]), name
        # A step of each, so that what torch holds of the parts is what the parameters are.
        for policy in (before, after):
            trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=gathering.layers is not None):
                policy(example()).logps.sum().backward()
            AdamW(trained, lr=0.1).step()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models")
    write(found)
    return found


def grouped(size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    try:
        compare(folder)
    finally:
        distributed.destroy_process_group()


def test_every_part_is_that_of_the_whole_model(folder: Path) -> None:
    together(2, grouped, 2, folder)


def train(folder: Path, path: Path, size: int) -> None:
    torch.set_num_threads(1)
    spec = PretrainedPolicy(path=str(path))
    if size > 1:
        # What it reads from here on is read in parts.
        PretrainedPolicy.load = forbidden  # type: ignore[assignment, method-assign]
    strategy = ModelParallelStrategy(data_parallel_size=size, tensor_parallel_size=1) if size > 1 else "auto"
    data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1)
    module = SFTModule(spec, optimizer=partial(AdamW, lr=1e-2))
    fit(folder, module, data, [PolicyExport()], max_steps=3, strategy=strategy, devices=size)


def forbidden(spec: PretrainedPolicy) -> Any:
    raise AssertionError(f"{spec.path} was read whole")


def test_a_run_starts_so_and_takes_the_steps_of_one_process(folder: Path, tmp_path: Path) -> None:
    together(1, train, tmp_path / "one", folder / "untied", 1)
    together(2, train, tmp_path / "two", folder / "untied", 2)
    (one,), (two,) = ([*(tmp_path / name).rglob("policy/model.safetensors")] for name in ("one", "two"))
    found, expected = load_file(two), load_file(one)
    for name, weight in expected.items():
        assert (found[name] - weight).norm() <= 1e-5 * weight.norm(), name
