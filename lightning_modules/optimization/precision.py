"""The precisions `bf16-true`, `16-true` and `64-true`: they convert parameters and nothing else."""

from __future__ import annotations

from typing import NoReturn, TypeVar

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from torch import nn
from typing_extensions import override

from lightning_modules.models.sharding import Gathering

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")
"""The precisions that are tested."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_ALIASES = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed", "None": "32-true"}
"""Lightning's short names."""


def converted(model: ModuleT, precision: Precision) -> ModuleT:
    """The model itself, its parameters in the precision's type."""
    precision.convert_module(model)
    return model


class ParameterPrecision(Precision):
    """Converts the parameters of a module once, when the policy has been built.

    Differs from Lightning's plugins of the same names in three ways. Batches stay as they are: theirs refuse frozen
    dataclasses, and ours hold token ids and float32 reference log-probs. Buffers stay as they are: rotary frequencies rounded
    to bfloat16 put distant tokens in the wrong place. The default dtype stays float32, so that a policy and its reference
    start from the same random weights wherever they are built.

    Args:
        name: the trainer's name of the precision.
        dtype: of the parameters.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.precision = name  # type: ignore[assignment]  # declared as a literal of all the names
        self.dtype = dtype

    @override
    def convert_module(self, module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            # In place, so that tied parameters stay tied.
            parameter.data = parameter.data.to(self.dtype)
        return module


def require_supported_precision(precision: object, accelerator: object) -> None:
    """Refuse a precision of the command line before anything is built, and before Lightning takes another one in its place.

    Args:
        precision: as `trainer.precision` has it.
        accelerator: as `trainer.accelerator` has it; what is no name counts as a GPU.

    Raises:
        ValueError: if it is none that is tested, or float16 would have to be autocast on a CPU.
    """
    name = _ALIASES.get(str(precision), str(precision))
    if name not in PRECISIONS:
        _refuse(name)
    if name == "16-mixed" and (accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())):
        raise ValueError(
            "expected a GPU under trainer.precision: 16-mixed, got a CPU, on which Lightning would train in bf16-mixed. "
            "Use bf16-mixed or 32-true."
        )


def _refuse(name: str) -> NoReturn:
    raise ValueError(
        f"expected trainer.precision to be one of {', '.join(PRECISIONS)}, got {name}, which replaces "
        "layers that log-probs and diagnostics read. Use bf16-mixed."
    )


def parameter_precision(plugin: Precision) -> Precision:
    """The plugin that replaces Lightning's: `ParameterPrecision` for the true half and double precisions.

    Raises:
        ValueError: if it is none that is tested.
    """
    if isinstance(plugin, HalfPrecision):
        return ParameterPrecision(plugin.precision, torch.float16 if plugin.precision == "16-true" else torch.bfloat16)
    if isinstance(plugin, DoublePrecision):
        return ParameterPrecision(plugin.precision, torch.float64)
    if type(plugin) is not Precision and not isinstance(plugin, MixedPrecision | ParameterPrecision):
        _refuse(type(plugin).__name__)
    return plugin


def gathering_of(plugin: Precision) -> Gathering:
    """The types in which FSDP2 gathers weights and averages gradients under a precision.

    Under `bf16-mixed` a layer's weights arrive in bfloat16; gradients narrower than float32 are averaged in float32. Under
    `16-mixed` everything goes as it is held, because an overflow has to reach the loss scaler.
    """
    if isinstance(plugin, MixedPrecision) and plugin.precision == "bf16-mixed":
        return Gathering(layers=torch.bfloat16, gradients=torch.float32)
    if isinstance(plugin, ParameterPrecision) and plugin.dtype.itemsize < 4:
        return Gathering(gradients=torch.float32)
    return Gathering()
