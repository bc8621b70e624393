"""Norms in one call compute what the modules compute, forward and backward; what is no plain RMS norm is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from typing_extensions import override

from lightning_modules.models.causal_lm import CausalLMPolicy
from lightning_modules.models.layers import fused_norms
from lightning_modules.models.layers.fused_norms import FusedNorm, fused_norm
from lightning_modules.models.scalars.reward_model import RewardModelSpec
from lightning_modules.models.sharding import whole_copy
from lightning_modules.models.specs import RandomPolicy
from tests.lightning_modules.models.architectures import config, make_batch
from tests.tiny import write_model

KINDS = (LlamaRMSNorm, Olmo2RMSNorm)


def drawn(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    """A norm, and rows in which epsilon weighs much and little."""
    module = kind(16, 1e-3)
    generator = torch.Generator().manual_seed(0)
    nn.init.uniform_(module.weight, -2, 2, generator=generator)  # type: ignore[arg-type]
    return module, torch.randn(5, 16, generator=generator) * torch.logspace(-3, 2, 5)[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_modules_own_in_its_type(kind: type[nn.Module], dtype: torch.dtype) -> None:
    module, rows = drawn(kind)
    fused = fused_norm(module)
    assert fused is not None
    with patch.object(fused_norms, "has_kernel", lambda _: True):
        output, expected = fused(rows.to(dtype)), module(rows.to(dtype))
    assert output.dtype == expected.dtype
    # Half precision is rounded once instead of twice: two of 256 steps.
    torch.testing.assert_close(output, expected, rtol=1e-5 if dtype == torch.float32 else 2**-7, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_formula_in_float64(kind: type[nn.Module]) -> None:
    module, rows = drawn(kind)
    weight = module.weight
    assert isinstance(weight, Tensor)
    leaves = [tensor.detach().double().requires_grad_() for tensor in (rows, weight)]
    (leaves[0] / (leaves[0].square().mean(-1, keepdim=True) + 1e-3).sqrt() * leaves[1]).sin().sum().backward()
    fused = fused_norm(module)
    assert fused is not None
    rows.requires_grad_()
    with patch.object(fused_norms, "has_kernel", lambda _: True):
        fused(rows).sin().sum().backward()
    for tensor, leaf in zip((rows, weight), leaves, strict=True):
        assert tensor.grad is not None
        assert leaf.grad is not None
        torch.testing.assert_close(tensor.grad.double(), leaf.grad, rtol=1e-4, atol=1e-5)


class _GatedRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    @override
    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
        output: Tensor = super().forward(hidden_states if gate is None else hidden_states * gate)
        return output


@pytest.mark.parametrize(
    "module", [Gemma2RMSNorm(16), _GatedRMSNorm(16), nn.LayerNorm(16), nn.RMSNorm(16, elementwise_affine=False)]
)
def test_norms_that_compute_something_else_stay_as_they_are(module: nn.Module) -> None:
    assert fused_norm(module) is None


def learned(policy: CausalLMPolicy) -> dict[str, Tensor]:
    """Log-probs and gradients."""
    logps = policy(make_batch()).logps
    logps.sum().backward()
    return {"logps": logps.detach(), **{name: p.grad for name, p in policy.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_a_policy_scores_and_learns_alike_with_the_kernel_and_its_copies_hold_their_own_norms(model_type: str) -> None:
    policy = RandomPolicy(config(model_type), seed=1).build()
    twin = copy.deepcopy(policy)
    for held in (policy, twin, whole_copy(policy.model)):
        norms = [module for module in held.modules() if "RMSNorm" in type(module).__name__]
        assert norms
        assert all(vars(norm)["forward"].module is norm for norm in norms)
    expected = learned(policy)
    calls: list[Tensor] = []
    written_out = torch.nn.functional.rms_norm

    def noted(rows: Tensor, *arguments: object) -> Tensor:
        calls.append(rows)
        output: Tensor = written_out(rows, *arguments)  # type: ignore[arg-type]
        return output

    with patch.object(fused_norms, "has_kernel", lambda _: True), patch.object(torch.nn.functional, "rms_norm", noted):
        found = learned(twin)
    assert len(calls) == len(norms)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_reward_models_have_fused_norms(tmp_path: Path) -> None:
    scalar = RewardModelSpec(str(write_model(tmp_path / "model"))).build()
    norms = [module for module in scalar.modules() if "RMSNorm" in type(module).__name__]
    assert norms
    assert all(vars(norm)["forward"].module is norm for norm in norms)


def test_compiled_layers_have_their_norms_written_out() -> None:
    policy = RandomPolicy(config("llama"), seed=1).build()
    policy.compile_layers(backend="eager")
    assert not any(isinstance(vars(module).get("forward"), FusedNorm) for module in policy.modules())
