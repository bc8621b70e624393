"""Copies all tensors of a batch to the accelerator in one call: a batch has fifteen, and each call costs more than its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes; every tensor begins at a multiple, as kernels with wide loads want it."""


def copy_to(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors on `device`, as views of one buffer there.

    On CUDA the host does not wait: the buffer is page-locked and nobody else's, and PyTorch keeps it until it is read.

    Args:
        tensors: on the host.
        device: an accelerator.
    """
    starts: dict[str, int] = {}
    end = 0
    for name, tensor in tensors.items():
        starts[name] = end
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    on_cuda = device.type == "cuda"
    buffer = torch.zeros(end, dtype=torch.uint8, pin_memory=on_cuda)
    for name, tensor in tensors.items():
        _part(buffer, starts[name], tensor).copy_(tensor)
    there = buffer.to(device, non_blocking=on_cuda)
    return {name: _part(there, starts[name], tensor) for name, tensor in tensors.items()}


def _part(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """The bytes from `start` on as a tensor of the shape and type of `like`."""
    size = prod(like.shape) * like.element_size()
    return buffer[start : start + size].view(like.dtype).view(like.shape)
