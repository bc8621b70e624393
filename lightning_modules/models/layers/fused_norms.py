"""RMS norms as one kernel on CUDA: unfused, they are a quarter of a step's kernel launches."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel


def fuse_norms(model: PreTrainedModel) -> None:
    """Every norm that computes x / sqrt(mean(x^2) + eps) * weight does so in one call where the device has a kernel for it.

    Half-precision results are rounded once there, where some models round before they multiply with the weight.
    """
    for module in model.modules():
        fused = fused_norm(module)
        if fused is not None:
            module.forward = fused


def write_norms_out(model: PreTrainedModel) -> None:
    """The modules' own forward again, in place: for a compiler, which fuses by itself."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), FusedNorm):
            del module.forward


def has_kernel(device: torch.device) -> bool:
    """Whether torch computes an RMS norm by one kernel there."""
    return device.type == "cuda"


@dataclass(frozen=True, eq=False)
class FusedNorm:
    """The forward of a plain RMS norm."""

    module: nn.Module
    epsilon: float
    keeps_type: bool
    """Whether the result has the input's type even where the weight has a wider one."""

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """The input normalised over its last dimension and scaled."""
        if not has_kernel(hidden_states.device):
            written_out: Tensor = type(self.module).forward(self.module, hidden_states)
            return written_out
        weight = self.module.weight
        assert isinstance(weight, Tensor), "a norm's weight is a parameter"
        if hidden_states.dtype == weight.dtype:
            return functional.rms_norm(hidden_states, weight.shape, weight, self.epsilon)
        dtype = torch.promote_types(hidden_states.dtype, weight.dtype)
        output = functional.rms_norm(hidden_states.to(dtype), weight.shape, weight.to(dtype), self.epsilon)
        return output.to(hidden_states.dtype) if self.keeps_type else output


def fused_norm(module: nn.Module) -> FusedNorm | None:
    """One call for what the module computes; None if it is no plain RMS norm, judged by its results on a few numbers."""
    epsilon, given = getattr(module, "variance_epsilon", getattr(module, "eps", None)), module._parameters.get("weight")
    if not type(module).__name__.endswith("RMSNorm") or len(module._parameters) != 1 or not isinstance(epsilon, float):
        return None
    if given is None or given.dim() != 1 or len(signature(type(module).forward).parameters) != 2:
        return None
    with torch.no_grad():
        # The first row is so small that epsilon weighs as much as its numbers.
        rows = torch.linspace(-1, 1.5, len(given), device="cpu") * torch.tensor([[epsilon**0.5], [1.0]], device="cpu")
        weight = torch.linspace(0.5, -2, len(given), device="cpu")
        probe = copy.copy(module)
        probe.__dict__["_parameters"] = {"weight": nn.Parameter(weight, requires_grad=False)}
        expected = functional.rms_norm(rows, weight.shape, weight, epsilon)
        if not torch.allclose(type(module).forward(probe, rows), expected, rtol=1e-5, atol=1e-6):
            return None
        keeps_type = type(module).forward(probe, rows.bfloat16()).dtype == torch.bfloat16
    return FusedNorm(module, epsilon, keeps_type)
