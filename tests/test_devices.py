"""What forgets to move a tensor, or draws numbers on the wrong device, is found without an accelerator: see pretend_device."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import AdamW

from callbacks.diagnostics.degradation import DegradationMonitor
from callbacks.diagnostics.dispersion import DispersionMonitor
from callbacks.diagnostics.likelihood import LikelihoodMonitor
from callbacks.diagnostics.reward_monitor import RewardMonitor
from callbacks.diagnostics.softmax_gradient import SoftmaxGradientMonitor
from datamodules.contracts.prompts import Sampling
from lightning_modules.losses.dpo import DPOLoss
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.specs import RandomPolicy
from lightning_modules.policy_module import PolicyModule
from lightning_modules.preference import PreferenceModule
from lightning_modules.reward import RewardModule
from tests.half_kernel import half_kernel_is_there
from tests.lightning_modules.models.architectures import config, make_batch
from tests.lightning_modules.ppo import rig
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs
from tests.pretend_device import DEVICE, pretend_device, waits
from tests.tiny import write_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:Rollout"),
]


def test_the_device_refuses_what_cuda_refuses() -> None:
    host = torch.arange(3)
    with pretend_device():
        there = torch.ones(3, 4).to(DEVICE)
        assert there[host].sum().item() == 12
        assert there.cpu().device.type == "cpu"
        assert torch.tensor([1.0], device=DEVICE).device == (there + torch.tensor(1.0)).device == DEVICE
        with pytest.raises(RuntimeError, match="at least two devices"):
            there + torch.ones(4)
        with pytest.raises(RuntimeError, match="at least two devices"):
            torch.nn.functional.embedding(host, there)
        few = torch.ones(1, 2, 3, 4).to(DEVICE)
        with pytest.raises(RuntimeError, match="no fused kernel takes fewer"):
            torch.nn.functional.scaled_dot_product_attention(
                torch.ones(1, 4, 3, 4).to(DEVICE), few, few, attn_mask=torch.ones(3, 3).to(DEVICE), enable_gqa=True
            )
        with torch.autocast(DEVICE.type, torch.bfloat16):
            assert (there @ there.T).dtype == torch.bfloat16
            assert (there.double() @ there.double().T).dtype == torch.float64
        with torch.device(DEVICE), pytest.raises(RuntimeError, match="generator of the device"):
            torch.rand(2, generator=torch.Generator())


def test_what_the_host_waits_for_is_counted() -> None:
    host = torch.arange(3)
    with pretend_device():
        there = torch.ones(3).to(DEVICE)
        for waiting in (
            lambda: there.sum().item(),
            lambda: bool((there > 0).all()),
            there.tolist,
            there.cpu,
            lambda: host.to(DEVICE),
            lambda: there[there > 0],
            lambda: torch.isin(there, there),
            lambda: there.long().bincount(),
            there.nonzero,
        ):
            with waits() as places:
                waiting()
            assert len(places) == 1, places
        with waits() as places:
            host.to(DEVICE, non_blocking=True)
            torch.where(there > 0, there, 0.0).sum().sqrt().reshape(1)
            there[host].index_add(0, there.long(), there)
            host.tolist()
        assert places == []


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_policy_scores_learns_and_samples(layout: str) -> None:
    prompts, parameters = [[1, 2, 3], [4, 5], [4, 5]], Sampling(6)
    policy, batch = RandomPolicy(config("llama"), seed=1, layout=layout).build().double(), make_batch()  # type: ignore[arg-type]
    policy(batch).logps.sum().backward()
    expected = policy(batch).logps.detach()
    gradients = [parameter.grad for parameter in policy.parameters()]
    drawn = policy.sample(prompts, parameters, eos_token_id=2, seed=0)
    policy.zero_grad()
    with pretend_device():
        policy.to(DEVICE)
        logps = policy(batch.to(DEVICE)).logps
        assert logps.device == DEVICE
        logps.sum().backward()
        torch.testing.assert_close(logps.cpu(), expected)
        for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
            torch.testing.assert_close(_on_host(parameter.grad), _on_host(gradient))
        assert policy.sample(prompts, parameters, eos_token_id=2, seed=0) == drawn
        assert policy._decoder == 0, "a slower way to sample would be right too"


def monitors() -> list[Callback]:
    return [
        SoftmaxGradientMonitor(every_n_steps=1),
        LikelihoodMonitor(every_n_steps=1),
        DegradationMonitor(every_n_steps=1),
        DispersionMonitor(every_n_steps=1),
    ]


def trained(kind: str, folder: Path, **options: Any) -> list[Tensor]:
    """Weights after a few steps, and every row of the diagnostics is written on the way."""
    optimizer = partial(AdamW, lr=1e-2)
    if kind == "ppo":
        module: PolicyModule = rig.module(optimizer=optimizer)
        rig.fit(folder, module, callbacks=monitors(), **options)
    else:
        module = PreferenceModule(TINY, DPOLoss(beta=0.5), optimizer, cache_dir=str(folder))
        data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]] * 8, 1)
        rig.fit(folder, module, data, monitors(), **options)
    return [parameter.detach().cpu().clone() for parameter in module.policy.parameters()]


@pytest.mark.parametrize("kind", ["dpo", "ppo"])
def test_training_with_the_monitors_gives_the_numbers_of_the_host(kind: str, tmp_path: Path) -> None:
    expected = trained(kind, tmp_path / "host")
    # The strategy makes the device the default while the model is built, as on a GPU.
    with pretend_device(), patch.object(CPUAccelerator, "setup_device"):
        weights = trained(kind, tmp_path / "there", strategy=SingleDeviceStrategy(device=DEVICE))
    torch.testing.assert_close(weights, expected)
    host, there = rows_of(tmp_path / "host"), rows_of(tmp_path / "there")
    assert len(host) > 20
    assert there == [pytest.approx(row, rel=1e-3, abs=1e-5, nan_ok=True) for row in host]


def test_autocast_on_the_device_reaches_the_half_precision_kernel(tmp_path: Path) -> None:
    wide = RandomPolicy({**TINY.config, "hidden_size": 32}, seed=3)

    def train(folder: Path, device_type: str, **options: Any) -> list[Tensor]:
        module = PreferenceModule(wide, DPOLoss(beta=0.5), partial(AdamW, lr=1e-3), cache_dir=str(folder))
        data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]] * 2, 1)
        rig.fit(folder, module, data, monitors(), plugins=[MixedPrecision("bf16-mixed", device_type)], **options)
        return [parameter.detach().cpu().clone() for parameter in module.policy.parameters()]

    with half_kernel_is_there() as used:
        expected = train(tmp_path / "host", "cpu")
        on_host = list(used)
        used.clear()
        with pretend_device(), patch.object(CPUAccelerator, "setup_device"):
            weights = train(tmp_path / "there", DEVICE.type, strategy=SingleDeviceStrategy(device=DEVICE))
    assert set(used) == {(torch.bfloat16, "half kernel")}
    assert used == on_host
    # Signs of tiny gradients may differ, and each costs 2 lr a step.
    torch.testing.assert_close(weights, expected, atol=5e-3, rtol=0)


def reward_weights(folder: Path, spec: RewardModelSpec, **options: Any) -> list[Tensor]:
    """Weights of a reward model after a few steps, with its monitor."""
    module = RewardModule(spec, partial(AdamW, lr=1e-2))
    data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]] * 4, 1)
    rig.fit(folder, module, data, [RewardMonitor(every_n_steps=1)], **options)
    return [parameter.detach().cpu().clone() for parameter in module.reward_model.parameters()]


@pytest.mark.parametrize("options", [{"pooling": "last"}, {"pooling": "sum", "num_layers": 1}, {"likelihood_scale": 1.0}])
def test_a_reward_model_learns_what_it_learns_on_the_host(options: dict[str, Any], tmp_path: Path) -> None:
    spec = RewardModelSpec(str(write_model(tmp_path / "model")), **options)
    expected = reward_weights(tmp_path / "host", spec)
    with pretend_device(), patch.object(CPUAccelerator, "setup_device"):
        weights = reward_weights(tmp_path / "there", spec, strategy=SingleDeviceStrategy(device=DEVICE))
    torch.testing.assert_close(weights, expected)
    assert any((weight != start).any() for weight, start in zip(weights, spec.build().parameters(), strict=True))


def rows_of(folder: Path) -> list[dict[str, float]]:
    """What the monitors wrote, without text."""
    lines = [line for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]
    return [{name: value for name, value in json.loads(line).items() if isinstance(value, (int, float))} for line in lines]


def _on_host(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "every parameter has a gradient"
    return tensor.cpu()
