"""Reward models and critics with the options of policies: attention, checkpointing, compilation, adapters, half precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from datamodules.contracts.batches import CompletionBatch
from datamodules.contracts.packing import pack
from lightning_modules.models.adapters.lora import LoraSpec
from lightning_modules.models.layers.compiling import compile_layers
from lightning_modules.models.scalars.critic import Critic, OwnBody
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.optimization.stochastic_rounding import StochasticAdamW
from lightning_modules.ppo.settings import PPOSettings
from lightning_modules.reward import RewardModule
from tests.half_kernel import half_kernel_is_there
from tests.lightning_modules.ppo.rig import fit, module
from tests.lightning_modules.stubs import TINY, InMemoryPairs, make_pairs

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`", "ignore:Rollout"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]
# Of heads eight wide, which kernels take.
BASE = replace(TINY, config=TINY.config | {"hidden_size": 32, "intermediate_size": 48})
SCORERS = ("last", "sum", "likelihood", "critic")
OPTIONS: Mapping[str, dict[str, Any]] = {
    "checkpointing": {"gradient_checkpointing": True},
    "selective": {"gradient_checkpointing": "selective"},
    "compile": {"compile": True},
    "compile, checkpointing": {"compile": True, "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    BASE.build().save(folder)
    return folder


@pytest.fixture(autouse=True)
def compile_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(model: Any, *, checkpoints: bool, backend: str = "") -> None:
        compile_layers(model, backend="eager", checkpoints=checkpoints)

    for place in ("layers.layer_options", "causal_lm"):
        monkeypatch.setattr(f"lightning_modules.models.{place}.compile_layers", eager)


def build(scorer: str, base: Path, **options: Any) -> nn.Module:
    """A head that says something."""
    if scorer == "critic":
        model: nn.Module = OwnBody(**options).build(BASE.build())
    else:
        kind: dict[str, Any] = {"likelihood_scale": 0.5} if scorer == "likelihood" else {"pooling": scorer}
        model = RewardModelSpec(str(base), **kind, **options).build()
    for name, parameter in model.named_parameters():
        if name.endswith("score.weight") or ".lora_B." in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model.train()


def scores(model: nn.Module, batch: CompletionBatch) -> Tensor:
    found: Tensor = model(batch, None) if isinstance(model, Critic) else model(batch)
    return found


def values_and_gradients(model: nn.Module) -> dict[str, Tensor]:
    found = scores(model, pack(make_pairs(3)))
    found.square().sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert gradients
    return {"scores": found.detach(), **gradients}


@pytest.mark.parametrize("lora", [None, LoraSpec(r=2)], ids=["whole", "lora"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scorer", SCORERS)
def test_no_option_changes_a_score_or_a_gradient(scorer: str, option: str, lora: LoraSpec | None, base: Path) -> None:
    expected = values_and_gradients(build(scorer, base, lora=lora))
    found = values_and_gradients(build(scorer, base, lora=lora, **OPTIONS[option]))
    assert expected["scores"].abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scorer", SCORERS)
def test_flash_attention_serves_them(scorer: str, base: Path) -> None:
    """A kernel of half precision is chosen under autocast, and gives what SDPA gives there."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = values_and_gradients(build(scorer, base, attention="sdpa"))
    with half_kernel_is_there() as used:
        model = build(scorer, base)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = values_and_gradients(model)
    assert set(used) == {(torch.bfloat16, "half kernel")}
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 0.05 * value.norm() + 1e-6, name


def reward_module(base: Path, optimizer: Callable[..., Any], **options: Any) -> RewardModule:
    return RewardModule(RewardModelSpec(str(base), **options), optimizer)


@pytest.mark.parametrize("kind", [{}, {"pooling": "sum"}, {"likelihood_scale": 0.5}, {"lora": LoraSpec(r=2)}], ids=str)
def test_a_reward_model_of_bfloat16_weights(kind: dict[str, Any], base: Path, tmp_path: Path) -> None:
    losses = {}
    for precision, dtype in {"32-true": torch.float32, "bf16-true": torch.bfloat16}.items():
        trained = reward_module(base, partial(StochasticAdamW, lr=0.01), **kind)
        start = {name: value.clone() for name, value in trained.spec.build().state_dict().items()}
        data = InMemoryPairs(make_pairs(4), [[0, 1], [2, 3]], 1)
        trainer = fit(tmp_path / precision, trained, data, max_steps=3, precision=precision)
        losses[precision] = float(trainer.callback_metrics["train/loss"])
        assert {value.dtype for value in trained.reward_model.parameters()} == {dtype}
        trained_ones = {name for name, value in trained.reward_model.named_parameters() if value.requires_grad}
        state = trained.reward_model.state_dict()
        assert {name for name in trained_ones if not torch.equal(state[name], start[name].to(dtype))} == trained_ones
    assert losses["bf16-true"] == pytest.approx(losses["32-true"], abs=0.05)
    with pytest.raises(ValueError, match="expected float32 weights under AdamW"):
        fit(tmp_path / "plain", reward_module(base, partial(AdamW, lr=0.01)), data, max_steps=1, precision="bf16-true")


def test_ppo_of_bfloat16_weights_with_a_critic(tmp_path: Path) -> None:
    ppo = module(settings=PPOSettings(num_minibatches=1), optimizer=partial(StochasticAdamW, lr=0.01))
    fit(tmp_path, ppo, max_steps=2, precision="bf16-true")
    assert {value.dtype for value in ppo.parameters()} == {torch.bfloat16}
