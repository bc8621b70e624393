"""Low-rank adapters (LoRA, arXiv 2106.09685): the weights stay frozen, and small factors beside them are trained."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_modules.models.adapters.peft_format import load_adapter, saved_config
from lightning_modules.models.adapters.quantized import dequantized

if TYPE_CHECKING:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer


@dataclass(frozen=True)
class LoraSpec:
    """W + (alpha / r) B A for every adapted linear layer, with B = 0 at the start, so that the policy begins as its base.

    Raises:
        ValueError: if r or alpha is not positive; when adapters are made, if `start_from` is no adapter of this model, or is one
            of another rank, scale or kind than asked for.
    """

    r: int = 16
    """Rank, >= 1."""
    alpha: float = 32.0
    """The update is scaled by alpha / r."""
    target_modules: str | list[str] = "all-linear"
    """Names of the adapted layers (suffixes, or one regular expression); all but the output layer by default."""
    use_dora: bool = False
    """Direction and magnitude apart (DoRA, arXiv 2402.09353): m (W + (alpha / r) B A) / |W + (alpha / r) B A|, column by column,
    with m trained and |W| at the start. Slower, because the norm is taken anew in every step."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) (rsLoRA, arXiv 2312.03732), so that a larger rank does not learn more slowly."""
    start_from: str | None = None
    """Folder of an adapter that PEFT saved over the same model, to be trained further: r, alpha, layers and kind are its own. The
    reference is then the policy with that adapter, as it starts."""

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 < self.alpha < math.inf:
            raise ValueError(f"expected a rank of at least 1, got {self.r}, and alpha > 0, got {self.alpha}.")


def add_adapters(model: PreTrainedModel, spec: LoraSpec, *, head: str | None = None) -> None:
    """Freeze the model and put adapters into it, the same at every call. They are float32 even beside half-precision weights.

    Args:
        model: is changed.
        spec: which ones.
        head: name of a layer that is new, and is trained as it is.

    Raises:
        ValueError: if `spec.start_from` does not fit (see `LoraSpec`).
    """
    # Here and below: peft takes seconds to import, which a run without adapters need not pay.
    from peft import inject_adapter_in_model

    config = _config(spec, head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            # Of peft's own translation to fused experts, whose rank and alpha it then leaves as they are.
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys")
            inject_adapter_in_model(config, model)
    if spec.start_from is not None:
        load_adapter(model, spec.start_from, head)
    if head is not None:
        model.get_submodule(head).requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def _config(spec: LoraSpec, head: str | None) -> LoraConfig:
    from peft import LoraConfig

    if spec.start_from is not None:
        return _saved(spec, spec.start_from)
    return LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        target_modules=spec.target_modules,
        exclude_modules=None if head is None else [head],
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
    )


def _saved(spec: LoraSpec, folder: str) -> LoraConfig:
    """The configuration of a saved adapter, without dropout, if it is what was asked for or nothing was."""
    config = saved_config(folder)
    plain = LoraSpec()
    for name, entry in (("r", "r"), ("alpha", "lora_alpha"), ("use_dora", "use_dora"), ("use_rslora", "use_rslora")):
        asked, found = getattr(spec, name), getattr(config, entry)
        if asked not in (getattr(plain, name), found):
            raise ValueError(
                f"expected lora.{name}: {found}, as the adapter in {folder} has it, got {asked}. Leave it out: an adapter that is "
                "trained further keeps its settings."
            )
    # The head of a reward model is trained outside of peft.
    config.lora_dropout, config.modules_to_save, config.inference_mode = 0.0, None, False
    return config


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Context in which the model computes what its base does."""
    layers = _layers(model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _layers(model: nn.Module) -> Sequence[BaseTunerLayer]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def merged_state_dict(model: PreTrainedModel) -> dict[str, Tensor]:
    """State of the plain model that computes the same: W + (alpha / r) B A under the name of W.

    Args:
        model: the adapted model with whole weights, which is left as it is.

    Raises:
        ValueError: if an adapter has no weight to be merged into.
    """
    from peft.tuners.lora import LoraLayer

    merged = dequantized(base_state(model), model.dtype)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            # Experts are one parameter of three dimensions, which peft wraps by its own name, one wrapper in another.
            own = f"{plain_name(name)}.{getattr(module, 'parameter_name', 'weight')}"
            if own not in merged:
                raise ValueError(
                    f"expected a weight {own} to merge an adapter into, got none: {type(module).__name__} around "
                    f"{type(module.get_base_layer()).__name__}. Leave it out of lora.target_modules."
                )
            merged[own] = _merged(module, merged[own])
    return merged


def base_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """State of the model without its adapters, under the names that it has without them."""
    state = model.state_dict(keep_vars=True)
    return {plain_name(name): value for name, value in state.items() if ".lora_" not in name}


def _merged(layer: LoraLayer, weight: Tensor) -> Tensor:
    if "default" in layer.lora_variant:
        # The norm of a whole column is in it: peft's own merge, on a copy.
        layer = copy.deepcopy(layer)
        layer.merge()
        merged: Tensor = layer.get_base_layer().weight.detach()
        return merged
    update: Tensor = layer.get_delta_weight("default")
    return (weight + update.reshape(weight.shape)).to(weight.dtype)


def plain_name(name: str) -> str:
    """What a weight is called without the adapters around it."""
    return name.replace(".base_layer", "")


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was here."""
    return any(".lora_" in name for name, _ in model.named_parameters())
