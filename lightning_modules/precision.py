"""What `precision: bf16-true`, `16-true` and `64-true` mean here: parameters of that type, and nothing else changed."""

from __future__ import annotations

import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision
from torch import nn
from typing_extensions import override


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


def of_parameters(plugin: Precision) -> Precision:
    """The plugin to use in the place of Lightning's: `ParameterPrecision` for the true half and double precisions."""
    if isinstance(plugin, HalfPrecision):
        return ParameterPrecision(plugin.precision, plugin._desired_input_dtype)
    if isinstance(plugin, DoublePrecision):
        return ParameterPrecision(plugin.precision, torch.float64)
    return plugin
