"""The length beyond which rotary embeddings (`dynamic`, `longrope`) depend on the longest sequence of a batch."""

from __future__ import annotations

import copy
import inspect

import torch
from torch import Tensor, nn

_NEAR = 3
"""Positions whose rotation is compared."""
_FAR = 2**24
"""Tokens; above every model's context, and float32 still tells neighbours apart."""


@torch.no_grad()
def steady_length(model: nn.Module) -> int | None:
    """Length up to which a token's rotation does not depend on the rest of the batch; None if it never does.

    Found by asking copies of the rotary modules, not by the name of a method: a module sees positions alone, so that one call
    costs nothing at any length.
    """
    lengths = [_steady_length(copy.deepcopy(module), layer_type) for module, layer_type in _rotary_modules(model)]
    return min((length for length in lengths if length < _FAR), default=None)


def _rotary_modules(model: nn.Module) -> list[tuple[nn.Module, str | None]]:
    """Rotary modules by kind (class and type of the rotation), each with the layer types it knows."""
    found: dict[str, tuple[nn.Module, str | None]] = {}
    for module in model.modules():
        if "Rotary" not in type(module).__name__:
            continue
        asked = inspect.signature(module.forward).parameters
        if "position_ids" not in asked:
            continue
        rope_type = getattr(module, "rope_type", None)
        layer_types = list(rope_type) if "layer_type" in asked and isinstance(rope_type, dict) else [None]
        for layer_type in layer_types:
            found.setdefault(f"{type(module).__name__} {rope_type} {layer_type}", (module, layer_type))
    return list(found.values())


def _steady_length(rotary: nn.Module, layer_type: str | None) -> int:
    alone = _rotation(rotary, _NEAR, layer_type)
    if _is_steady(rotary, _FAR, layer_type, alone):
        return _FAR
    steady, changed = _NEAR, _FAR
    while changed - steady > 1:
        middle = (steady + changed) // 2
        if _is_steady(rotary, middle, layer_type, alone):
            steady = middle
        else:
            changed = middle
    return steady


def _is_steady(rotary: nn.Module, length: int, layer_type: str | None, alone: Tensor) -> bool:
    """Whether the first positions beside a sequence of that length are rotated as they are alone."""
    _rotation(rotary, _NEAR, layer_type)  # some keep the frequencies of the longest sequence they have met until a short one comes
    return torch.allclose(_rotation(rotary, length, layer_type), alone, atol=1e-6)


def _rotation(rotary: nn.Module, length: int, layer_type: str | None) -> Tensor:
    """`[parts, _NEAR, ...]` cosines and sines (of some models: complex numbers) of the first positions of so long a sequence."""
    device = next((tensor.device for tensor in rotary.buffers()), None)
    positions = torch.tensor([[*range(_NEAR), length - 1]], device=device)
    options = {} if layer_type is None else {"layer_type": layer_type}
    rotated = rotary(torch.zeros(1, device=device), position_ids=positions, **options)
    parts = torch.stack(rotated if isinstance(rotated, tuple) else (rotated,))
    return (torch.view_as_real(parts) if parts.is_complex() else parts)[:, 0, :_NEAR].float()
