"""Low-rank adapters (LoRA, arXiv 2106.09685): the weights stay frozen, small factors beside them are trained."""

from __future__ import annotations

import math
import warnings
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
        with warnings.catch_warnings():
            # Of peft's own translation to fused experts, whose rank and alpha it then leaves as they are.
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys")
            inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def merged_state_dict(model: PreTrainedModel) -> dict[str, Tensor]:
    """State of the plain model that computes the same: W + (alpha / r) B A under the name of W.

    Args:
        model: the adapted model with whole weights, which is left as it is.

    Raises:
        ValueError: if an adapter has no weight to be merged into.
    """
    from peft.tuners.lora import LoraLayer

    merged = {_plain(name): value for name, value in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            # Experts are one parameter of three dimensions, which peft wraps by its own name, one wrapper in another.
            own = f"{_plain(name)}.{getattr(module, 'parameter_name', 'weight')}"
            if own not in merged:
                raise ValueError(
                    f"expected a weight {own} to merge an adapter into, got none: {type(module).__name__} around "
                    f"{type(module.get_base_layer()).__name__}. Leave it out of lora.target_modules."
                )
            weight = merged[own]
            update = module.get_delta_weight("default")
            merged[own] = (weight + update.reshape(weight.shape)).to(weight.dtype)
    return merged


def _plain(name: str) -> str:
    return name.replace(".base_layer", "")


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether `add_adapters` was here."""
    return any(".lora_" in name for name, _ in model.named_parameters())
