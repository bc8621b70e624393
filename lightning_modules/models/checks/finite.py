"""Checks that weights are finite before they are used, saved or handed on."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def names_of_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity; one transfer from the device. Of a sharded one this rank's part is read."""
    local = {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
    read = {name: tensor.detach() for name, tensor in local.items() if tensor.is_floating_point() and tensor.numel()}
    if not read:
        return []
    # The extremes of a tensor are NaN where any element is, and need no second tensor of its size.
    extremes = [torch.stack(tensor.aminmax()).isfinite().all() for tensor in read.values()]
    flags = torch.stack([flag.to(extremes[0].device) for flag in extremes]).tolist()
    return [name for name, is_finite in zip(read, flags, strict=True) if not is_finite]


def require_finite_weights(module: nn.Module, what: str) -> None:
    """Refuse weights that cannot compute anything. Every rank of a sharded module looks at its own part.

    Args:
        module: with the weights.
        what: names them in the error, for instance "the policy in runs/sft/policy".

    Raises:
        ValueError: if a parameter holds NaN or infinity.
    """
    weights = dict(module.named_parameters())
    broken = names_of_not_finite(weights)
    if broken:
        raise ValueError(
            f"expected finite weights in {what}, got NaN or infinity in {len(broken)} of {len(weights)} tensors "
            f"({some_of(broken)}). They come from a run that diverged, or from a damaged "
            "file: take an earlier checkpoint, or fetch the files again."
        )


def tensors_of(state: object, path: str = "") -> dict[str, Tensor]:
    """Every tensor in nested dictionaries and lists, by its path."""
    if isinstance(state, Tensor):
        return {path: state}
    parts = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {name: tensor for key, part in parts for name, tensor in tensors_of(part, f"{path}/{key}").items()}


def some_of(names: Collection[str]) -> str:
    """The first three names."""
    return ", ".join(list(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
