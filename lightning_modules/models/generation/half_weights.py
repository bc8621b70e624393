"""Casts weights to autocast's type once for a whole call; autocast itself would cast them at every token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lightning_modules.models.heads.head import ScoringHead
from lightning_modules.models.sharding import is_sharded

_PRODUCTS = (nn.Linear, Conv1D, ScoringHead)
"""Layers whose weights only matrix products read, which autocast takes in its type. Subclasses may read them otherwise."""


@contextmanager
def half_weights(model: PreTrainedModel) -> Iterator[None]:
    """Under autocast: linear layers hold copies in its type, 2 bytes a parameter; the weights are put back, also after an error.

    Every product is the one that autocast would take, bit for bit. Sharded models keep their weights, which are whole only
    while a layer runs.
    """
    device = model.get_input_embeddings().weight.device.type
    if not torch.is_autocast_enabled(device) or is_sharded(model):
        yield
        return
    dtype = torch.get_autocast_dtype(device)
    with ExitStack() as restored, torch.no_grad():
        cast = _InputCast(dtype)
        for module in model.modules():
            if type(module) in _PRODUCTS and module.weight.dtype in (torch.float32, torch.float16, torch.bfloat16):
                restored.callback(module._parameters.update, dict(module._parameters))
                restored.callback(module.register_forward_pre_hook(cast).remove)
                module._parameters.update({name: _copy(parameter, dtype) for name, parameter in module._parameters.items()})
        yield


def _copy(parameter: nn.Parameter | None, dtype: torch.dtype) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.to(dtype), requires_grad=False)


class _InputCast:
    """Casts what several layers read (as queries, keys and values do) once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The layer's inputs, the first one cast."""
        source, *others = inputs
        if source.dtype in (self._dtype, torch.float64):
            return inputs
        # Inference tensors do not count their changes: nothing would tell that the copy is out of date.
        version = -1 if source.is_inference() else source._version
        if self._last is None or self._last[0] is not source or version < 0 or self._last[1] != version:
            self._last = source, version, source.to(self._dtype)
        return self._last[2], *others
