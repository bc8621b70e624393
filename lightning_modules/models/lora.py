"""Low-rank adapters (LoRA, arXiv 2106.09685): the weights stay frozen, small factors beside them are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoraSpec:
    """W + (alpha / r) B A for every adapted linear layer, with B = 0 at the start, so that the policy begins as its base.

    Raises:
        ValueError: if r or alpha is not positive.
    """

    r: int = 16
    """Rank, >= 1."""
    alpha: float = 32.0
    """The update is scaled by alpha / r."""
    target_modules: str | list[str] = "all-linear"
    """Names of the adapted layers (suffixes, or one regular expression); all but the output layer by default."""

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 < self.alpha < math.inf:
            raise ValueError(f"expected a rank of at least 1, got {self.r}, and alpha > 0, got {self.alpha}.")


def add_adapters(model: PreTrainedModel, spec: LoraSpec) -> None:
    """Freeze the model and put adapters into it, the same at every call. They are float32 even beside half-precision weights."""
    # Here and below: peft takes seconds to import, which a run without adapters need not pay.
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=spec.r, lora_alpha=spec.alpha, lora_dropout=0.0, target_modules=spec.target_modules)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def merged_state_dict(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of the plain model that computes the same: W + (alpha / r) B A under the name of W.

    Args:
        model: the adapted model, which is left as it is.
        state: its whole state.
    """
    from peft.tuners.lora import LoraLayer

    merged = {name: value for name, value in state.items() if ".lora_" not in name and ".base_layer." not in name}
    merged |= {name.replace(".base_layer.", "."): value for name, value in state.items() if ".base_layer." in name}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            down, up = (state[f"{name}.lora_{side}.default.weight"] for side in "AB")
            update = module.scaling["default"] * (up @ down)
            weight = merged[f"{name}.weight"]
            # GPT-2 keeps its weights the other way round.
            merged[f"{name}.weight"] = (weight + (update.T if module.fan_in_fan_out else update)).to(weight.dtype)
    return merged


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether `add_adapters` was here."""
    return any(".lora_" in name for name, _ in model.named_parameters())
